from __future__ import annotations

import json
import math
import pickle

import pytest

from edgeseg.card import ModelCard, as_triple, default_palette
from edgeseg.errors import DataError, EdgesegError, MissingDependencyError, ModelError, SinkError, nearest

FACTS = {"classes": ["road", "car"], "input_size_hw": [360, 480]}


def test_json_keeps_every_field() -> None:
    card = ModelCard(
        classes=("road", "cär"), input_size_hw=(360, 480), palette=((1, 2, 3), (4, 5, 6)), ignore_id=None,
        color_order="rgb", input_dtype="float16", input_layout="nchw", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6),
        head="mask", precision="fp16", name="net", dataset={"name": "d"}, metrics={"val": {"miou": 0.5}},
        provenance={"torch": "2"},
    )  # fmt: skip
    assert ModelCard.from_json(card.to_json()) == card
    assert ModelCard.from_json(card.to_json(indent=2)) == card


def test_lists_become_tuples_and_whole_floats_integers() -> None:
    card = ModelCard.from_json(json.dumps({**FACTS, "input_size_hw": [360.0, 480], "ignore_id": 0}))
    assert card.classes == ("road", "car")
    assert card.input_size_hw == (360, 480)
    assert all(type(side) is int for side in card.input_size_hw)
    assert (card.num_classes, card.ignore_id) == (2, 0)
    assert card.palette == default_palette(2)


def test_a_card_cannot_be_changed_but_copied() -> None:
    card = ModelCard(**FACTS)
    with pytest.raises(AttributeError):
        card.name = "other"  # type: ignore[misc]
    assert card.replace(name="other").name == "other"
    with pytest.raises(ModelError, match="head 'boxes'"):
        card.replace(head="boxes")


def test_default_palette_repeats_after_twenty_colours() -> None:
    assert len(set(default_palette(20))) == 20
    assert default_palette(21)[20] == default_palette(1)[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"classes": []}, "names 0 classes"),
        ({"classes": [str(i) for i in range(256)]}, "names 256 classes"),
        ({"classes": "road"}, "list of names"),
        ({"classes": {"road": 0}}, "list of names"),
        ({"classes": ["road", None]}, "list of names"),
        ({"classes": 3}, "not iterable"),
        ({"classes": ["road", "road"]}, "'road' twice"),
        ({"input_size_hw": [0, 480]}, "input size"),
        ({"input_size_hw": [360, -1]}, "input size"),
        ({"input_size_hw": [360, 1 << 20]}, "input size"),
        ({"input_size_hw": [360]}, "not enough values"),
        ({"input_size_hw": [360, 480, 3]}, "too many values"),
        ({"input_size_hw": "12"}, "whole number"),
        ({"input_size_hw": [360.5, 480]}, "whole number"),
        ({"input_size_hw": [math.inf, 480]}, "infinity"),
        ({"input_size_hw": None}, "does not hold"),
        ({"palette": [[1, 2, 3]]}, "one colour for each class"),
        ({"palette": [[1, 2, 3], [1, 2, 256]]}, "outside 0..255"),
        ({"palette": [[1, 2], [1, 2]]}, "does not hold"),
        ({"ignore_id": 256}, "ignore id 256"),
        ({"ignore_id": -1}, "ignore id -1"),
        ({"ignore_id": True}, "whole number"),
        ({"mean": [0.5]}, "three values"),
        ({"mean": [0.5, 0.5, math.nan]}, "not a number"),
        ({"std": [1, 1, math.inf]}, "not a number"),
        ({"std": [1, 1, 0]}, "std of 0"),
        ({"std": ["a", 1, 1]}, "does not hold"),
        ({"color_order": "gbr"}, "color_order 'gbr'"),
        ({"input_dtype": "int8"}, "input_dtype 'int8'"),
        ({"input_layout": "chw"}, "input_layout 'chw'"),
        ({"head": ["logits"]}, "head"),
        ({"resize": "letterbox"}, "resize 'letterbox'"),
        ({"task": "detection"}, "task 'detection'"),
        ({"schema": 2}, "schema 2"),
        ({"dataset": "camvid"}, "dataset"),
        ({"metrics": None}, "metrics"),
        ({"name": 3}, "name"),
        ({"nmae": "x"}, "unknown keys: nmae"),
    ],
)
def test_wrong_values_are_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ModelError) as caught:
        ModelCard.from_json(json.dumps({**FACTS, **change}))
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_newer_schema_is_named_before_its_unknown_keys() -> None:
    with pytest.raises(ModelError, match="schema 2, this edgeseg reads 1"):
        ModelCard.from_json(json.dumps({**FACTS, "schema": 2, "new_key": 1}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "lacks classes, input_size_hw"),
        ('{"classes": ["a"]}', "lacks input_size_hw"),
    ],
)
def test_text_that_is_no_card(text: str, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        ModelCard.from_json(text, origin="file.json")
    assert str(caught.value).startswith("file.json")
    assert said in str(caught.value)


def test_card_files(tmp_path) -> None:
    path = tmp_path / "card.json"
    path.write_text(json.dumps(FACTS), encoding="utf-8")
    assert ModelCard.from_file(path).classes == ("road", "car")
    path.write_bytes(b"\xff\xfe")
    for broken in (path, tmp_path / "none.json", tmp_path):
        with pytest.raises(ModelError, match="Cannot read the card"):
            ModelCard.from_file(broken)


def test_as_triple() -> None:
    assert as_triple([0.5]) == (0.5, 0.5, 0.5)
    assert as_triple([1, 2, 3]) == (1.0, 2.0, 3.0)


# --- errors ----------------------------------------------------------------------------------------------------


def test_an_error_says_its_mend_once_and_keeps_its_parts() -> None:
    error = DataError("The file x is bad.", "replace it.")
    assert str(error) == "The file x is bad. Mend: replace it"
    assert (error.problem, error.mend, error.exit_code) == ("The file x is bad", "replace it", 2)
    assert SinkError("a", "b").exit_code == 1
    assert SinkError("a", "b", exit_code=2).exit_code == 2


@pytest.mark.parametrize("kind", [DataError, SinkError, MissingDependencyError])
def test_errors_cross_process_borders(kind: type[EdgesegError]) -> None:
    copy = pickle.loads(pickle.dumps(kind("problem", "mend", exit_code=7)))
    assert type(copy) is kind
    assert (str(copy), copy.mend, copy.exit_code) == ("problem. Mend: mend", "mend", 7)


def test_nearest() -> None:
    assert nearest("rnu", ["run", "eval"]).startswith("did you mean 'run'?")
    assert nearest("zzz", ["run", "eval"]) == "use one of eval, run"
    assert "none" in nearest("x", [])


def test_a_missing_package_names_its_extra() -> None:
    error = MissingDependencyError.for_extra("torch", "train", "Training")
    assert isinstance(error, ImportError)
    assert str(error) == "Training needs 'torch', which is not installed. Mend: pip install 'edgeseg[train]'"
