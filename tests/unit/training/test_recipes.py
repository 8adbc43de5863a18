"""Fine-tuning recipes: rates by layer, weight decay on matrices only, averaged weights, early stopping."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.training import SHAPES, curve, equal, from_disk, make_modules, make_work, on_disk, train, weights
from torch import nn

from benchkit.core.errors import UserError
from benchkit.core.features import Pooled
from benchkit.core.protocol import Phase, base_protocol, override
from benchkit.encoder import BertConfig, random_encoder
from benchkit.encoder.bert import TopLayers
from benchkit.nn.losses import calibrated_cosent, cosent, multiple_negatives
from benchkit.training.batches import Order
from benchkit.training.loop import State
from benchkit.training.optimizer import AdamW, Average, groups_of
from benchkit.training.steps import disagreement

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdef"]
ENCODER = random_encoder("tiny", VOCAB, BertConfig(len(VOCAB), 16, 3, 2, 32, 32), seed=0)


def modules_of(encoder: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict({"head": nn.Sequential(nn.Linear(16, 4), nn.LayerNorm(4)), "encoder": encoder})


def by_name(encoder: nn.Module, settings: Phase) -> dict[str, tuple[float, float]]:
    """Scale of the rate and weight decay of each parameter."""
    modules = modules_of(encoder)
    names = [name for name, _ in modules.named_parameters()]
    groups = groups_of(modules, settings)
    assert sorted(number for group in groups for number in group.numbers) == list(range(len(names)))
    return {names[number]: (group.scale, group.weight_decay) for group in groups for number in group.numbers}


def test_without_a_recipe_there_is_one_group() -> None:
    (group,) = groups_of(modules_of(ENCODER.model), Phase(weight_decay=0.1))
    assert (group.scale, group.weight_decay) == (1.0, 0.1)


def test_each_lower_layer_has_a_lower_rate() -> None:
    settings = Phase(learning_rate=1e-3, encoder_learning_rate=1e-4, layer_decay=0.5)
    scales = {name: scale for name, (scale, _) in by_name(ENCODER.model, settings).items()}
    assert scales["head.0.weight"] == 1.0
    assert [scales[f"encoder.layers.{number}.qkv.weight"] for number in (2, 1, 0)] == pytest.approx([0.1, 0.05, 0.025])
    assert scales["encoder.word.weight"] == pytest.approx(0.0125)
    assert scales["encoder.pooler.weight"] == pytest.approx(0.1)


def test_layers_are_counted_from_the_top_of_the_encoder() -> None:
    """The top layers alone have the rates that they have in the whole encoder."""
    settings = Phase(layer_decay=0.5)
    scales = by_name(TopLayers(ENCODER.model, 2), settings)
    assert scales["encoder.layers.1.qkv.weight"][0] == 1.0
    assert scales["encoder.layers.0.qkv.weight"][0] == 0.5


def test_biases_and_norms_do_not_decay() -> None:
    decays = {
        name: decay for name, (_, decay) in by_name(ENCODER.model, Phase(weight_decay=0.1, decays="matrices")).items()
    }
    assert decays["encoder.layers.0.qkv.weight"] == decays["encoder.word.weight"] == decays["head.0.weight"] == 0.1
    assert decays["encoder.layers.0.qkv.bias"] == decays["encoder.layers.0.norm1.weight"] == decays["head.1.bias"] == 0


def test_groups_step_as_torchs_do() -> None:
    settings = Phase(learning_rate=0.1, encoder_learning_rate=0.01, weight_decay=0.2, decays="matrices")
    nets = []
    for _ in range(2):
        torch.manual_seed(0)
        nets.append(nn.ModuleDict({"head": nn.Linear(4, 2), "encoder": nn.Linear(4, 4)}))
    theirs = torch.optim.AdamW(
        [
            {"params": [nets[0]["head"].weight], "lr": 0.1, "weight_decay": 0.2},
            {"params": [nets[0]["head"].bias], "lr": 0.1, "weight_decay": 0.0},
            {"params": [nets[0]["encoder"].weight], "lr": 0.01, "weight_decay": 0.2},
            {"params": [nets[0]["encoder"].bias], "lr": 0.01, "weight_decay": 0.0},
        ],
        fused=True,
    )
    ours = AdamW(nets[1].parameters(), 0.2, groups_of(nets[1], settings))
    for _ in range(5):
        inputs = torch.randn(8, 4)
        for net in nets:
            net.zero_grad()
            net["head"](net["encoder"](inputs)).square().mean().backward()
        theirs.step()
        ours.step(0.1)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_an_average_of_weights() -> None:
    module = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(module.weight)
    average = Average(module, 0.9)
    for step in range(1, 200):
        nn.init.constant_(module.weight, float(step))
        average.update()
    with average.applied():
        inside = module.weight[0, 0].item()
    assert module.weight[0, 0].item() == 199
    assert inside == pytest.approx(199 - 0.9 / 0.1, abs=0.1)  # it lags behind a ramp by decay / (1 - decay)


def test_it_is_the_average_that_is_scored_and_kept() -> None:
    plain, averaged = make_modules(), make_modules()
    context, vectors = make_work()
    train(context, vectors, plain)
    context, vectors = make_work(average=0.9)
    state = train(context, vectors, averaged)
    assert not equal(weights(plain), weights(averaged))
    assert equal(dict(state.best.items()), weights(averaged))


RECIPES: list[dict[str, Any]] = [
    {"average": 0.9},
    {"layer_decay": 0.5, "encoder_learning_rate": 0.001, "decays": "matrices"},
    {"patience": 2, "epochs": 8},
    {"r_drop": 1.0},
    {"ranking": 0.5},
    {"ranking": 1.0, "ranking_only": True},
]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_a_resumed_phase_ends_bit_by_bit_the_same(recipe: dict[str, Any]) -> None:
    context, vectors = make_work(**recipe)
    saved: list[bytes] = []
    whole = make_modules(encoder=True)
    state = train(context, vectors, whole, on_epoch=lambda state: saved.append(on_disk(state)))
    for data in saved[:-1]:
        resumed = make_modules(encoder=True)
        again = train(context, vectors, resumed, from_disk(data))
        assert equal(weights(whole), weights(resumed))
        assert again.curve == state.curve


def test_disagreement_is_the_symmetric_divergence() -> None:
    a, b = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    topic, score = SHAPES["topic"], SHAPES["score"]
    kl = torch.nn.functional.kl_div
    p, q = a.log_softmax(1), b.log_softmax(1)
    both = kl(p, q, reduction="batchmean", log_target=True) + kl(q, p, reduction="batchmean", log_target=True)
    torch.testing.assert_close(disagreement(a, b, topic), both / 2)
    half = (score.high - score.low) / 2
    assert float(disagreement(torch.zeros(2, 1), torch.full((2, 1), half), score)) == pytest.approx(0.25)


def test_r_drop_draws_outputs_under_dropout_together() -> None:
    apart = []
    for weight in (0.0, 20.0):
        context, vectors = make_work(r_drop=weight)
        modules = make_modules(dropout=0.5)
        train(context, vectors, modules)
        head = modules["head"].train()
        torch.manual_seed(0)
        features = Pooled(vectors[:200, None])
        with torch.no_grad():
            first, second = (head(features, "topic") for _ in range(2))
        apart.append(float(disagreement(first, second, SHAPES["topic"])))
    assert apart[1] < apart[0] / 2


def test_each_first_sentence_ranks_its_own_second_highest() -> None:
    pairs, positive = torch.randn(5, 2, 4), torch.tensor([True, False, True, True, False])
    loss = multiple_negatives(pairs, positive)
    first, second = (each / each.norm(dim=-1, keepdim=True) for each in pairs.double().unbind(1))
    scores = 20 * first @ second.T
    wanted = [-(each[i, i] - each[i].logsumexp(0)) for each in (scores, scores.T) for i in (0, 2, 3)]
    assert float(loss) == pytest.approx(float(sum(wanted)) / 6, abs=1e-5)
    assert float(multiple_negatives(pairs, torch.zeros(5, dtype=torch.bool))) == 0
    assert float(multiple_negatives(pairs[:, :1].expand(-1, 2, -1), positive)) < float(loss)


def test_ranking_alone_trains_the_encoder_and_not_the_head() -> None:
    context, vectors = make_work(("match",), ranking=1.0, ranking_only=True)
    modules = make_modules(encoder=True)
    before = weights(modules)
    state = train(context, vectors, modules)
    changed = {name.split(".")[0] for name, value in weights(modules).items() if not torch.equal(value, before[name])}
    assert changed == {"encoder"}
    assert (state.best_epoch, state.diverged, state.events) == (4, "", [])


def test_ranking_brings_paraphrases_closer() -> None:
    part = make_work()[0].corpus.parts["match", "dev"]
    assert part.labels is not None
    found = []
    for weight in (0.0, 2.0):
        context, vectors = make_work(ranking=weight, epochs=8)
        modules = make_modules(encoder=True)
        train(context, vectors, modules)
        with torch.no_grad():
            pairs = modules["encoder"].eval()(vectors[part.rows])
        found.append(float(multiple_negatives(pairs, part.labels == 1)))
    assert found[1] < found[0]


@pytest.mark.parametrize(("sampling", "share"), [("by_size", 0.8), ("square_root", 2 / 3)])
def test_tasks_are_drawn_by_a_power_of_their_size(sampling: str, share: float) -> None:
    order = Order({"large": 40_000, "small": 10_000}, 10, sampling, 0, "finetune", 1)
    drawn = [task for task, _ in order.epoch(1)]
    assert len(drawn) == order.batches() == 5000
    assert drawn.count("large") / 5000 == pytest.approx(share, abs=0.03)


def test_a_calibrated_order_stays_on_the_scale_of_the_labels() -> None:
    shape, labels = SHAPES["score"], torch.tensor([0.0, 2.0, 5.0])
    right, shifted = labels[:, None], labels[:, None] / 2
    assert float(cosent(right, labels, shape)) < 0.05
    assert float(calibrated_cosent(right, labels, shape)) == pytest.approx(float(cosent(right, labels, shape)))
    assert float(calibrated_cosent(shifted, labels, shape)) > float(cosent(shifted, labels, shape)) + 0.05


def test_without_dropout_r_drop_changes_nothing() -> None:
    states = []
    for weight in (0.0, 5.0):
        context, vectors = make_work(r_drop=weight)
        states.append(train(context, vectors, make_modules(dropout=0.0)))
    first, second = (torch.tensor([each["loss"] for each in state.curve]) for state in states)
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)


def test_a_phase_ends_when_dev_gets_no_better() -> None:
    context, vectors = make_work(epochs=50, patience=2, learning_rate=0.05)
    state = train(context, vectors, make_modules(0.0))
    assert state.epoch == state.best_epoch + 2 < 50
    assert len(curve(state, "topic", "dev", "value")) == state.epoch


def test_patience_starts_with_the_first_epoch() -> None:
    context, vectors = make_work(epochs=50, patience=1, learning_rate=0.0)
    assert train(context, vectors, make_modules(0.0), State(context.phase)).epoch == 2


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"pretrain": {"layer_decay": 0.9}}, "pretrain.encoder_learning_rate and layer_decay need an encoder to train"),
        ({"finetune": {"layer_decay": 1.5}}, "finetune.layer_decay is above 0 and at most 1, not 1.5"),
        ({"finetune": {"average": 1.0}}, "finetune.average is a decay from 0"),
        ({"finetune": {"patience": -1}}, "finetune.patience must be a finite number, at least 0, not -1"),
        ({"finetune": {"decays": "biases"}}, "finetune.decays is one of all, matrices"),
        ({"pretrain": {"ranking": 1}}, "pretrain.ranking needs an encoder to train"),
        ({"finetune": {"ranking_only": True}}, "finetune.ranking_only needs the weight of it"),
        ({"finetune": {"ranking_only": True, "ranking": 1, "r_drop": 1}}, "finetune.ranking_only trains no head"),
        ({"finetune": {"losses": "cosent"}}, "finetune.losses takes a list or object, not 'cosent'"),
        ({"finetune": {"encoder_learning_rate": 1e-5, "learning_rate": 0}}, "needs a learning_rate above 0"),
    ],
)
def test_what_makes_no_sense_is_one_line(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        override(base_protocol(), settings, (), ())
