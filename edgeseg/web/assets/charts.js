// Small live charts of the last minute, as SVG that takes its colours from the style sheet.

const SPAN_S = 60, WIDTH = 300, HEIGHT = 80;
const SVG = "http://www.w3.org/2000/svg";

function element(parent, name, attributes = {}, namespace = SVG) {
  const node = namespace ? document.createElementNS(namespace, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent.append(node);
  return node;
}

/** The least of 1, 2, 5, 10, 20, 50, ... that is not below `value`. */
function niceCeiling(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-3)));
  return [1, 2, 5, 10].map(step => step * power).find(top => top >= value * 0.999);
}

export class Chart {
  /** Draws into `article`; `lines` names them, the most important first. */
  constructor(article, lines) {
    this.samples = [];
    const values = element(article, "p", { class: "values" }, null);
    this.values = lines.map((name, index) => {
      const cell = element(values, "span", { class: `line${index}` }, null);
      const value = element(cell, "b", {}, null);
      if (name) element(cell, "small", {}, null).textContent = name;
      return value;
    });
    const plot = element(article, "div", { class: "plot" }, null);
    this.top = element(plot, "span", { class: "top" }, null);
    element(plot, "span", { class: "span" }, null).textContent = `${SPAN_S} s`;
    const svg = element(plot, "svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" });
    svg.setAttribute("aria-hidden", "true");
    this.paths = lines.map((_, index) => element(svg, "path", { class: `line${index}` }));
  }

  /** Adds the values of all lines now; null where there are none, which leaves a gap. */
  add(values) {
    const now = performance.now() / 1000;
    this.samples.push({ at: now, values });
    while (this.samples[0].at < now - SPAN_S) this.samples.shift();
    const known = this.samples.flatMap(sample => sample.values).filter(value => value !== null);
    const top = niceCeiling(Math.max(...known, 0));
    this.top.textContent = known.length ? top : "";
    this.paths.forEach((path, line) => path.setAttribute("d", this.#outline(line, now, top)));
    this.values.forEach((cell, line) => {
      cell.textContent = values[line] === null ? "–" : values[line].toFixed(1);
    });
  }

  #outline(line, now, top) {
    let pen = "M";
    return this.samples.map(({ at, values }) => {
      if (values[line] === null) { pen = "M"; return ""; }
      const x = WIDTH * (1 - (now - at) / SPAN_S), y = HEIGHT * (1 - values[line] / top);
      const step = `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
      pen = "L";
      return step;
    }).join("");
  }
}
