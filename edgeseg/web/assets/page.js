import { Chart } from "./charts.js";
import { paintedPng } from "./palette.js";

const CONTACT_TIMEOUT_MS = 4000; // the server answers at least twice a second
const RETRY_MS = 1000;
const OLD_MS = 2000; // a picture older than this is not shown as live
const CHART_EVERY_MS = 500;

const $ = id => document.getElementById(id);
const views = { overlay: $("overlay"), mask: $("mask"), frame: $("frame-alone") };

const PERCENTILES = ["p50", "p95", "p99"];
const charts = {
  fps: new Chart($("fps"), [""]),
  latency: new Chart($("latency"), PERCENTILES),
  age: new Chart($("age"), PERCENTILES),
};

let key = "";            // of the newest picture received
let state = "connecting", reason = "";
let contact = true;
let figures = null;
let shown = null;        // { frame: ImageBitmap, png: Uint8Array, mask: ImageBitmap, index, valid, capturedAt }
let classes = [];        // { name, rgb, on }
let opacity = 0.5;

// ---- receiving ----

async function receive() {
  const response = await fetch(`live?after=${key}`, { signal: AbortSignal.timeout(CONTACT_TIMEOUT_MS) });
  if (response.status === 401) location.reload();
  if (!response.ok) throw new Error(`status ${response.status}`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  const length = new DataView(bytes.buffer).getUint32(0);
  const status = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  return { status, files: bytes.subarray(4 + length) };
}

async function watch() {
  let drawing = Promise.resolve();
  for (;;) {
    await visible();
    try {
      const { status, files } = await receive();
      contact = true;
      ({ state, reason, figures } = status);
      if (status.picture) {
        key = status.picture.key;
        // The next picture is fetched while this one is decoded, but never more than that one.
        await drawing;
        drawing = show(status.picture, files);
      }
    } catch (error) {
      if (contact) console.info("no contact:", error.message);
      contact = false;
      await new Promise(done => setTimeout(done, RETRY_MS));
    }
    refresh();
  }
}

/** Nobody watches a page in the background: it asks for nothing, unless it records. */
function visible() {
  if (!document.hidden || recorder) return Promise.resolve();
  return new Promise(done => document.addEventListener("visibilitychange", done, { once: true }));
}

async function show(picture, files) {
  if (picture.classes) setClasses(picture.classes);
  const capturedAt = performance.now() - picture.age_ms;
  const png = files.slice(picture.jpeg_bytes);
  const [frame, mask] = await Promise.all([
    createImageBitmap(new Blob([files.subarray(0, picture.jpeg_bytes)], { type: "image/jpeg" })),
    createImageBitmap(paintedPng(png, colors())),
  ]);
  shown?.frame.close();
  shown?.mask.close();
  shown = { frame, png, mask, capturedAt, index: picture.index, valid: picture.valid };
  draw();
}

// ---- drawing ----

/** Colour of each class; ids that are switched off, or that no class has, are transparent. */
function colors() {
  const rgba = new Uint8Array(4 * 256);
  classes.forEach(({ rgb, on }, id) => rgba.set([...rgb, on ? 255 : 0], 4 * id));
  return rgba;
}

function draw() {
  const { frame, mask } = shown;
  for (const canvas of Object.values(views)) {
    if (canvas.width !== frame.width || canvas.height !== frame.height) {
      canvas.width = frame.width;
      canvas.height = frame.height;
    }
  }
  const [overlay, alone, source] = ["overlay", "mask", "frame"].map(name => views[name].getContext("2d"));
  overlay.drawImage(frame, 0, 0);
  overlay.globalAlpha = opacity;
  overlay.drawImage(mask, 0, 0);
  overlay.globalAlpha = 1;
  alone.fillRect(0, 0, mask.width, mask.height);
  alone.drawImage(mask, 0, 0);
  source.drawImage(frame, 0, 0);
}

async function repaint() {
  if (!shown) return;
  const painted = shown;
  const mask = await createImageBitmap(paintedPng(painted.png, colors()));
  if (shown !== painted) return mask.close(); // a newer picture came, in the new colours
  shown.mask.close();
  shown.mask = mask;
  draw();
}

// ---- words and figures ----

const STATE_WORDS = {
  connecting: "No picture yet",
  stalled: "The source has stalled",
  reconnecting: "Reconnecting to the source",
  ended: "The source has ended",
  failed: "The source has failed",
};

function notice() {
  const age = shown ? `Picture of ${((performance.now() - shown.capturedAt) / 1000).toFixed(1)} s ago.` : "";
  if (!contact) return ["No contact", `edgeseg does not answer; trying again. ${age}`];
  if (STATE_WORDS[state]) return [STATE_WORDS[state], [reason, age].filter(Boolean).join(". ")];
  if (!shown) return ["No picture yet", "Waiting for the first result."];
  if (performance.now() - shown.capturedAt > OLD_MS) return ["Old picture", age];
  if (!shown.valid) return ["No valid mask", "The network gave NaN or infinity."];
  return null;
}

function refresh() {
  const problem = notice();
  document.body.dataset.state = contact ? state : "lost";
  document.body.classList.toggle("stale", problem !== null && (shown?.valid ?? true));
  $("state").textContent = contact ? state : "no contact";
  $("notice").hidden = problem === null;
  if (problem) [$("notice").firstChild.textContent, $("notice").lastChild.textContent] = problem;
  $("frame").textContent = shown ? `frame ${shown.index}` : "";
  $("snapshot").disabled = $("record").disabled = !shown;
  if (figures) {
    $("source").textContent = figures.source;
    document.title = `edgeseg: ${contact ? state : "no contact"}`;
    tiles();
  }
}

function chart() {
  const known = contact ? figures : null;
  charts.fps.add([known?.fps ?? null]);
  for (const name of ["latency", "age"]) {
    charts[name].add(PERCENTILES.map(p => known?.[`${name}_ms`][p] ?? null));
  }
}

const GIB = 1024;
const TILES = {
  "Frames": f => f.frames.toLocaleString("en"),
  "Dropped": f => f.dropped.toLocaleString("en"),
  "Missed deadlines": f => f.missed,
  "Invalid": f => f.invalid || null,
  "Stale": f => f.counts.stale || null,
  "Corrupt": f => f.counts.corrupt || null,
  "Reconnects": f => f.counts.reconnects || null,
  "CPU": ({ machine: m }) => m.cpu_percent === undefined ? null : `${m.cpu_percent.toFixed(0)} %`,
  "GPU": ({ machine: m }) => m.gpu_percent === undefined ? null : `${m.gpu_percent.toFixed(0)} %`,
  "Memory": ({ machine: m }) => m.memory_used_mib === undefined ? null
    : `${(m.memory_used_mib / GIB).toFixed(1)} of ${(m.memory_total_mib / GIB).toFixed(1)} GiB`,
  "Power": ({ machine: m }) => m.power_w === undefined ? null : `${m.power_w.toFixed(1)} W`,
  "Temperature": ({ machine: m }) => m.temperature_c === undefined ? null : `${m.temperature_c.toFixed(0)} °C`,
  "Power mode": ({ machine: m }) => m.power_mode ?? null,
  "Throttled": ({ machine: m }) => m.throttle_events || null,
};

function tiles() {
  const rows = Object.entries(TILES).map(([name, read]) => [name, read(figures)]).filter(([, value]) => value !== null);
  const list = $("tiles");
  if (list.children.length !== rows.length) {
    list.replaceChildren(...rows.map(() => {
      const tile = document.createElement("div");
      tile.append(document.createElement("dt"), document.createElement("dd"));
      return tile;
    }));
  }
  rows.forEach(([name, value], index) => {
    const [term, text] = list.children[index].children;
    term.textContent = name;
    text.textContent = value;
  });
}

// ---- controls ----

function setClasses(received) {
  const off = new Set(classes.filter(({ on }) => !on).map(({ name }) => name));
  classes = received.map(({ name, rgb }) => ({ name, rgb, on: !off.has(name) }));
  $("classes").replaceChildren(...classes.map(one => {
    const item = document.createElement("li"), label = document.createElement("label");
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: one.on });
    const swatch = document.createElement("i");
    swatch.style.background = `rgb(${one.rgb.join(" ")})`;
    box.addEventListener("change", () => { one.on = box.checked; repaint(); });
    label.append(box, swatch, one.name);
    item.append(label);
    return item;
  }));
}

function switchAll(on) {
  classes.forEach(one => { one.on = on; });
  for (const box of $("classes").querySelectorAll("input")) box.checked = on;
  repaint();
}

$("all").addEventListener("click", () => switchAll(true));
$("none").addEventListener("click", () => switchAll(false));

$("opacity").addEventListener("input", event => {
  opacity = event.target.value / 100;
  $("opacity-shown").textContent = `${event.target.value} %`;
  if (shown) draw();
});

function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const timestamp = () => new Date().toISOString().slice(0, 19).replaceAll(":", "-");

$("snapshot").addEventListener("click", () => {
  views.overlay.toBlob(blob => save(blob, `edgeseg-${timestamp()}.png`), "image/png");
});

const VIDEO_TYPES = ["video/mp4;codecs=avc1.42E01F", "video/webm;codecs=vp9", "video/webm;codecs=vp8", "video/mp4"];
let recorder = null;

function record() {
  const mimeType = window.MediaRecorder && VIDEO_TYPES.find(type => MediaRecorder.isTypeSupported(type));
  if (!mimeType) return alert("This browser cannot record.");
  const parts = [], name = `edgeseg-${timestamp()}.${mimeType.includes("mp4") ? "mp4" : "webm"}`;
  recorder = new MediaRecorder(views.overlay.captureStream(), { mimeType, videoBitsPerSecond: 4_000_000 });
  recorder.addEventListener("dataavailable", event => parts.push(event.data));
  recorder.addEventListener("stop", () => {
    save(new Blob(parts, { type: mimeType }), name);
    recorder = null;
    showRecording(false);
  });
  recorder.start(1000);
  showRecording(true);
}

function showRecording(on) {
  $("record").setAttribute("aria-pressed", on);
  $("record").lastElementChild.textContent = on ? "Stop" : "Record";
}

$("record").addEventListener("click", () => recorder ? recorder.stop() : record());

setInterval(() => { refresh(); chart(); }, CHART_EVERY_MS);
watch();
