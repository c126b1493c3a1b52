"""Recipes and flags: where a run's configuration comes from, and what it prints."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("tensorboard", reason="needs the extra 'train'")

from edgeseg import cli  # noqa: E402
from edgeseg_train.config import TrainConfig, add_flags, flag_of  # noqa: E402
from edgeseg_train.recipes import RECIPES, config_from_values  # noqa: E402


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_is_a_whole_configuration_under_its_name(name):
    config = RECIPES[name].build("data.yaml", "runs/a")
    assert (config.recipe, config.data, config.out) == (name, "data.yaml", "runs/a")


def test_recipes_for_camvid_differ_in_length_alone():
    quick, standard, full = (RECIPES[f"camvid-{name}"].build("d", "o") for name in ("quick", "standard", "full"))
    assert quick.epochs < standard.epochs < full.epochs
    assert dataclasses.replace(quick, recipe="camvid-standard", epochs=standard.epochs) == standard
    assert dataclasses.replace(full, recipe="camvid-standard", epochs=standard.epochs) == standard


def test_flags_override_a_recipe_and_the_others_keep_its_values():
    values = {"data": "d", "out": "o", "recipe": "cityscapes", "epochs": 7, "imgsz": [512, 512], "loss": "weighted-ce"}
    config = config_from_values(values)
    recipe = RECIPES["cityscapes"].build("d", "o")
    assert config == dataclasses.replace(recipe, epochs=7, imgsz=(512, 512), loss="weighted-ce")
    assert recipe.schedule == config.schedule == "poly"


def test_every_field_has_a_flag_which_shows_its_default():
    parser = argparse.ArgumentParser(prog="x")
    add_flags(parser)
    # A flag that is not given must not override a recipe.
    assert set(vars(parser.parse_args([])).values()) == {None}
    flags = {action.dest: action for action in parser._actions}
    for field in dataclasses.fields(TrainConfig):
        assert flag_of(field) in flags[field.name].option_strings
        default = field.default if isinstance(field.default, tuple) else (field.default,)
        if field.default not in ("", False, dataclasses.MISSING):
            assert flags[field.name].help.endswith(f"({' '.join(map(str, default))})")
    assert parser.parse_args(["--imgsz", "360", "480", "--warmup", "0"]).imgsz == [360, 480]
    assert parser.parse_args(["--from", "a.pt"]).init_from == "a.pt"


def test_list_of_recipes_can_be_typed_as_it_is_printed(capsys):
    assert cli.main(["train", "--list-recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[::2]] == list(RECIPES)
    parser = cli.parser_of("train")
    for name, flags in zip(RECIPES, lines[1::2]):
        given = {k: v for k, v in vars(parser.parse_args(shlex.split(flags))).items() if v is not None}
        fields = {field.name for field in dataclasses.fields(TrainConfig)}
        values = {"data": "d", "out": "o"} | {k: v for k, v in given.items() if k in fields}
        assert dataclasses.replace(TrainConfig(**values), recipe=name) == RECIPES[name].build("d", "o")


def test_a_run_says_what_it_is_and_what_to_do_next(train, tmp_path, capsys):
    assert train("--recipe", "camvid-quick", "--epochs", 1, "--lr", 0.002) == 0
    saved = json.loads((tmp_path / "run/config.json").read_text())
    assert (saved["recipe"], saved["epochs"], saved["lr"]) == ("camvid-quick", 1, 0.002)
    assert saved["balance"] == RECIPES["camvid-quick"].build("d", "o").balance > TrainConfig("d", "o").balance

    network, images, length, device, *_, heading, evaluate, export, curves = capsys.readouterr().out.splitlines()
    words = [" ".join(line.split()) for line in (network, images, length, device)]
    assert words == [
        "network ddrnet-c4, 0.08 M parameters, 96x64 pixels",
        "images train 8, val 4; 3 classes",
        "length 1 epochs of 4 steps, recipe camvid-quick",
        "device cpu, autocast off",
    ]
    assert heading == "next:"
    capsys.readouterr()
    assert cli.main(shlex.split(evaluate)[1:]) == 0
    assert "green" in capsys.readouterr().out
    cli.parser_of("export").parse_args(shlex.split(export)[2:])
    assert curves.split()[0] == "tensorboard"
