"""Every model is trained behind what it learns from."""

import pytest

from twotower.pipeline.order import learns_from_stages, share_left_out, stages_before, training_order
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.teaching import teachers

SOFTMAX, LISTS = {"kind": "full-softmax"}, {"kind": "lists"}


def taught(teacher):
    return {"kind": "full-stage", "teacher": teacher}


def recipe(*stages, **more):
    """Stages are (model, objective), the retriever first; ``more`` models stand in no stage."""
    names = ["retrieve", *["prerank"] * (len(stages) - 2), "rank"]
    models = {name: {"model": "two-tower", "objective": about} for name, about in (*stages, *more.items())}
    cascade = [
        {"stage": stage, "model": name, "k": 9} for stage, (name, _) in zip(names, stages, strict=True)
    ]
    return Recipe.parse({"name": "r", "data": {"reader": "synthetic"}, "models": models, "cascade": cascade})


@pytest.mark.parametrize(
    ("made", "order"),
    [
        (recipe(("r", SOFTMAX), ("heavy", LISTS)), ["r", "heavy"]),
        (recipe(("r", SOFTMAX), ("light", LISTS), ("heavy", LISTS)), ["r", "light", "heavy"]),
        (recipe(("r", SOFTMAX), ("light", taught("heavy")), ("heavy", LISTS)), ["r", "heavy", "light"]),
        (
            recipe(("r", SOFTMAX), ("one", taught("heavy")), ("two", LISTS), ("heavy", LISTS)),
            ["r", "heavy", "one", "two"],
        ),
        (
            recipe(("r", SOFTMAX), ("one", taught("two")), ("two", taught("heavy")), ("heavy", LISTS)),
            ["r", "heavy", "two", "one"],
        ),
        (
            recipe(("r", SOFTMAX), ("light", taught("aside")), ("heavy", LISTS), aside={"kind": "pointwise"}),
            ["r", "aside", "light", "heavy"],
        ),
    ],
    ids=["two", "three", "taught", "cut", "chain", "aside"],
)
def test_what_is_needed_comes_first(made, order):
    assert training_order(made) == order
    for number, name in enumerate(order):
        needed = {*teachers(made, name)[:1]}
        if learns_from_stages(made, name):
            needed |= {stage.model for stage in stages_before(made, name)}
        assert needed <= set(order[:number])


def test_a_teacher_learns_from_what_its_pupil_will_be_served():
    made = recipe(("r", SOFTMAX), ("light", taught("heavy")), ("heavy", LISTS))
    assert [stage.model for stage in stages_before(made, "heavy")] == ["r"]
    assert [stage.model for stage in stages_before(made, "light")] == ["r"]
    assert stages_before(made, "r") == ()


def test_each_stage_learns_lists_from_what_the_ones_before_it_left():
    half, most = {**LISTS, "share": 0.5}, {**LISTS, "share": 0.8}
    made = recipe(("r", SOFTMAX), ("light", half), ("middle", taught("heavy")), ("heavy", most))
    assert share_left_out(made, "r") == share_left_out(made, "light") == share_left_out(made, "middle") == 0
    assert share_left_out(made, "heavy") == 0.5
    made = recipe(("r", SOFTMAX), ("one", half), ("two", most), ("three", LISTS))
    assert share_left_out(made, "two") == 0.5
    assert share_left_out(made, "three") == pytest.approx(0.9)
    made = recipe(("r", SOFTMAX), ("one", half), ("two", {**LISTS, "queries": "all"}), ("three", LISTS))
    assert share_left_out(made, "two") == 0
    assert share_left_out(made, "three") == 0.8
