"""What cannot be trained, measured or served is said before anything is trained."""

import sys

import pytest
import torch

from twotower.baselines.catalogue import BASELINES
from twotower.errors import ConfigError, MissingExtra
from twotower.pipeline.learning import check_settings
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.recipe import Recipe
from twotower.types import Ragged

RATE = {"model": "click-rate", "objective": {"kind": "counts"}}
TOKENS = {"model": "colbert", "config": {"pair": ["retrieve_score"]}}
DOT = {"model": "two-tower"}
ALL = "cannot rank the whole catalogue; train it on lists or pointwise"


@pytest.fixture
def with_model(tiny):
    """The tiny recipe as plain data, with one model more, in no stage of it."""

    def make(about, objective):
        plain = tiny()
        plain["models"]["m"] = {**about, "objective": {"kind": objective}}
        return plain

    return make


def parsed(plain):
    return Recipe.parse(plain, where="r.yaml")


def refused_in_training(plain, directory, message, error=ConfigError):
    """Prepared it is, and nothing is trained."""
    said = list[str]()
    pipeline = Pipeline(parsed(plain), directory, say=said.append)
    pipeline.prepare()
    with pytest.raises(error, match=message):
        pipeline.train()
    assert not any("training" in line for line in said)


# -- objectives ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["in-batch", "full-softmax"])
@pytest.mark.parametrize("model", ["dcn-v2", "cold", "logistic-regression"])
def test_a_joint_model_cannot_learn_to_rank_the_catalogue(with_model, model, objective):
    with pytest.raises(ConfigError, match=rf"^r\.yaml: model 'm': {model} \(joint\) {ALL}$"):
        parsed(with_model({"model": model}, objective))


@pytest.mark.parametrize("objective", ["in-batch", "full-softmax", "sampled"])
@pytest.mark.parametrize("about", [TOKENS, {**TOKENS, "model": "knrm"}, {**TOKENS, "model": "dcn-v2"}])
def test_nor_can_one_that_reads_pair_fields(with_model, about, objective):
    says = rf"model 'm': {about['model']} \(\w+\) {ALL} \(its pair fields, retrieve_score, come with lists"
    with pytest.raises(ConfigError, match=says):
        parsed(with_model(about, objective))
    parsed(with_model({**about, "config": {}, "model": "colbert"}, objective))


def test_a_joint_model_on_sampled_items_is_refused_before_anything_is_trained(tiny, tmp_path):
    """Not before: programs train them so, and compare their epochs by other means."""
    plain = tiny("models.ranker.objective={kind: sampled}", "models.ranker.config.pair=[]")
    refused_in_training(plain, tmp_path, rf"model 'ranker': dcn-v2 \(joint\) {ALL}")


@pytest.mark.parametrize("about", [DOT, {"model": "dcn-v2"}])
def test_a_model_that_learns_by_gradients_does_not_count(with_model, about):
    says = f"model 'm': {about['model']} learns by gradients; objective: counts is for models that count"
    with pytest.raises(ConfigError, match=says):
        parsed(with_model(about, "counts"))


@pytest.mark.parametrize("objective", ["pointwise", "in-batch", "sampled", "full-softmax"])
def test_a_model_that_counts_learns_by_nothing_else(with_model, objective):
    with pytest.raises(ConfigError, match=r"model 'm': click-rate counts; objective: \{kind: counts\}"):
        parsed(with_model(RATE, objective))
    assert parsed(with_model(RATE, "counts")).models["m"].objective.kind == "counts"


def test_lists_of_a_whole_funnel_have_no_pair_fields(tiny):
    plain = tiny("models.ranker.objective={kind: full-stage}")
    says = "model 'ranker': dcn-v2 scores with the pair fields retrieve_score, which .* take them out of its"
    with pytest.raises(ConfigError, match=says):
        parsed(plain)
    plain["models"]["ranker"]["config"]["pair"] = []
    assert parsed(plain).models["ranker"].objective.kind == "full-stage"


# -- positives -------------------------------------------------------------------------------------------


def test_a_threshold_needs_a_label(tiny):
    plain = tiny("positive={at_least: 3}")
    with pytest.raises(ConfigError, match=r"^r\.yaml: positive: at_least: 3 needs a label: .* every event"):
        parsed(plain)
    assert parsed(tiny("positive={at_least: 3, label: click}")).positive.at_least == 3
    everything = parsed(tiny("positive={}"))
    assert Recipe.parse(everything.plain()) == everything  # the resolved recipe has a threshold, its default


def test_the_label_of_a_collection_is_its_grade(with_model):
    plain = with_model(DOT, "in-batch") | {"data": {"reader": "beir"}, "positive": {"at_least": 2}}
    assert parsed(plain).positive.at_least == 2


# -- extras ----------------------------------------------------------------------------------------------


@pytest.fixture
def without(monkeypatch):
    """Makes a module one that is not installed."""
    return lambda module: monkeypatch.setitem(sys.modules, module, None)


FAISS = "cascade.0.index={kind: faiss}"
WANTED = [
    ("baselines=[{name: item-knn}]", "scipy.sparse", "baselines"),
    ("baselines=[{name: ease}]", "scipy.sparse", "baselines"),
    ("baselines=[{name: popularity}, {name: ials}]", "implicit.cpu.als", "baselines"),
    ("baselines=[{name: ials}]", "threadpoolctl", "baselines"),
    (FAISS, "faiss", "faiss"),
]


@pytest.mark.parametrize(("change", "module", "extra"), WANTED)
def test_extras_are_asked_for_before_data_are_read(tiny, tmp_path, without, change, module, extra):
    without(module)
    said = list[str]()
    pipeline = Pipeline(parsed(tiny(change)), tmp_path, say=said.append)
    with pytest.raises(MissingExtra, match=rf"{module} is not .* pip install 'twotower\[{extra}\]'"):
        pipeline.prepare()
    assert not said


def test_extras_are_asked_for_before_anything_is_trained(tiny, tmp_path, without):
    """Prepared elsewhere, or where they were installed once."""
    said = list[str]()
    pipeline = Pipeline(parsed(tiny(FAISS)), tmp_path, say=said.append)
    pipeline.prepare()
    without("faiss")
    with pytest.raises(MissingExtra, match=r"pip install 'twotower\[faiss\]'"):
        pipeline.train()
    assert not any("training" in line for line in said)


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ({"baseline": "ease"}, "scipy.sparse"),
        ({"baseline": "ials"}, "implicit.cpu.als"),
        ({"similar": "retriever", "index": {"kind": "faiss"}}, "faiss"),
    ],
)
def test_sources_ask_for_theirs_too(tiny, tmp_path, without, source, module):
    plain = tiny()
    towers = {"name": "towers", "k": 30, "model": "retriever"}
    plain["cascade"][0] = {"stage": "retrieve", "k": 30, "sources": [towers, {"name": "s", "k": 9, **source}]}
    without(module)
    with pytest.raises(MissingExtra, match=module):
        Pipeline(parsed(plain), tmp_path).prepare()


def test_what_is_not_used_is_not_asked_for(tiny, tmp_path, without):
    for module in ("scipy.sparse", "implicit.cpu.als", "threadpoolctl", "faiss"):
        without(module)
    alone = tiny("baselines=[{name: ials}]", "cascade=[]")  # nothing to stand beside: it is not measured
    del alone["models"]["ranker"]
    for plain in (tiny(), alone):
        Pipeline(parsed(plain), tmp_path / str(len(plain["cascade"]))).prepare()


@pytest.mark.parametrize("name", BASELINES)
def test_what_a_baseline_asks_for_is_known(name, monkeypatch):
    from twotower.pipeline.requirements import NEEDED_BY, require

    asked = set[str]()

    def noted(module, extra):
        asked.add(module)
        assert extra == "baselines"
        return require(module, extra)

    for place in ("ials", "incidence", "item_knn"):
        monkeypatch.setattr(f"twotower.baselines.{place}.require", noted)
    clicks = Ragged.of([[0, 1], [1, 2], [0, 2]])
    BASELINES[name]().fit(clicks, 3, torch.arange(6.0)).scores(clicks)
    assert asked == set(NEEDED_BY.get(name, ()))


# -- devices ---------------------------------------------------------------------------------------------


def test_a_device_that_there_is_not_is_refused_before_anything_is_trained(tiny, tmp_path):
    plain = tiny("models.ranker.train.device=gpu")  # the second one to be trained
    refused_in_training(plain, tmp_path, "^model 'ranker': device 'gpu' cannot be used: .* 'auto' or 'cpu'")


def test_what_is_trained_needs_no_device(tiny, tmp_path, monkeypatch):
    """A run of another machine, which has one, is opened on this one."""

    def choose(wanted):
        raise ConfigError(f"device {wanted!r} cannot be used")

    plain = tiny("models.retriever.train.epochs=1", "cascade=[]")
    del plain["models"]["ranker"]
    Pipeline(parsed(plain), tmp_path).prepare()
    Pipeline.open(tmp_path).train()
    monkeypatch.setattr("twotower.pipeline.requirements.choose_device", choose)
    assert list(Pipeline.open(tmp_path).train()) == ["retriever"]
    (tmp_path / "models/retriever/model.json").unlink()
    with pytest.raises(ConfigError, match="model 'retriever': device 'auto' cannot be used"):
        Pipeline.open(tmp_path).train()


# -- indexes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factory", "why"),
    [
        ("HNSWX", "could not parse index string HNSWX"),
        ("IVF4,PQ3", ".*should be a multiple of the number of subquantizers"),
        ("PCA4,Flat", "PCAMatrix changes inner products"),
    ],
)
def test_a_factory_that_makes_no_index_is_refused_before_anything_is_trained(tiny, tmp_path, factory, why):
    pytest.importorskip("faiss")
    plain = tiny()
    plain["cascade"][0]["index"] = {"kind": "faiss", "factory": factory}
    # 10 floats: the tower's 8, a bias and a constant
    made = f"no index with factory='{factory}' can be made of vectors with 10 floats: "
    refused_in_training(plain, tmp_path, f"^model 'retriever': {made}{why}")


def test_items_like_others_are_searched_without_their_biases(tiny):
    pytest.importorskip("faiss")
    plain = tiny()

    def check(factory):
        index = {"kind": "faiss", "factory": factory}
        like = {"name": "like", "k": 9, "similar": "retriever", "index": index}
        popular = {"name": "popular", "k": 9, "baseline": "popularity"}
        plain["cascade"] = [{"stage": "retrieve", "k": 9, "sources": [popular, like]}]
        plain["models"] = {"retriever": plain["models"]["retriever"]}
        check_settings(Prepared.make(parsed(plain), None, "raise"), "retriever")

    check("IVF4,PQ4")  # 8 floats
    with pytest.raises(ConfigError, match=r"'retriever': no index with factory='PQ5' .* with 8 floats"):
        check("PQ5")


def test_to_look_is_no_draw(tiny):
    pytest.importorskip("faiss")
    plain = tiny("models.retriever.train.learning_rates={towers: 0.1}")
    plain["cascade"][0]["index"] = {"kind": "faiss", "factory": "IVF4,Flat"}
    prepared = Prepared.make(parsed(plain), None, "raise")
    before = torch.random.get_rng_state()
    with pytest.raises(ConfigError, match="no dense parameter begins with 'towers'"):
        check_settings(prepared, "retriever")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_rate_of_no_parameter_is_refused_before_anything_is_trained(tiny, tmp_path):
    plain = tiny("models.ranker.train.learning_rates={hed: 0.1}")
    refused_in_training(plain, tmp_path, "'ranker': learning_rates: no dense parameter begins with 'hed'")


@pytest.mark.parametrize(
    ("name", "metric", "remedy"),
    [
        ("retriever", "nDCG@1O", "nDCG@10, R@10; did you mean 'nDCG@10'"),
        ("ranker", "AUC", "nDCG@10"),
    ],
)
def test_a_metric_that_is_not_measured_is_refused_before_anything_is_trained(
    tiny, tmp_path, name, metric, remedy
):
    plain = tiny(f"models.{name}.train.metric={metric}")
    message = f"{name!r}: metric is {metric!r}, but its validation.*{remedy}"
    refused_in_training(plain, tmp_path, message)


QUOTA = {"kind": "quota", "field": "categroy", "at_most": 1, "within": 3}


@pytest.mark.parametrize(
    "stage",
    [
        {"stage": "diversify", "field": "categroy"},
        {"stage": "filter", "where": {"field": "categroy", "in": ["a"]}},
        {"stage": "rules", "rules": [QUOTA]},
    ],
)
def test_a_field_of_no_item_is_refused_before_anything_is_trained(tiny, tmp_path, stage):
    plain = tiny()
    plain["cascade"].append(stage | {"k": 9})
    refused_in_training(plain, tmp_path, r"categroy.*did you mean 'category'")


@pytest.mark.parametrize("change", ["models.ranker.features=[user, itm]", "value=[{label: itm}]"])
def test_a_name_of_nothing_is_refused_before_anything_is_trained(tiny, tmp_path, change):
    refused_in_training(tiny(change), tmp_path, "itm")
