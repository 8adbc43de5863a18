"""One phase of training, with real modules on small learnable data held in memory."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchkit.blocks import finish, joined
from benchkit.features import Pooled
from benchkit.losses import cross_entropy, mse
from benchkit.metrics import accuracy, pearson
from benchkit.protocol import Phase
from benchkit.rng import global_stream
from benchkit.task import TaskShape, TaskSpec
from benchkit.train.corpus import Corpus, Part
from benchkit.train.evaluate import collapsed, decide, evaluate, forward
from benchkit.train.loop import State, Work, train_phase
from benchkit.train.order import Order, OrderHash

WIDTH = 8
TASKS = {
    "topic": TaskSpec("topic", "", ("a",), "label", accuracy, {"ce": cross_entropy}, (), ("x", "y", "z")),
    "match": TaskSpec("match", "", ("a", "b"), "label", accuracy, {"ce": cross_entropy}, (), ("no", "yes")),
    "score": TaskSpec("score", "", ("a", "b"), "label", pearson, {"mse": mse}, (), (), 0.0, 5.0),
}
SHAPES = {name: task.shape() for name, task in TASKS.items()}
CONSTANT_LOSSES = {"topic": math.log(3), "match": math.log(2), "score": 0.05}


@dataclass
class Memory:
    """Features that do not change."""

    vectors: Tensor

    def gather(self, rows: Tensor) -> Pooled:
        return Pooled(self.vectors[rows])

    def snapshot(self, rows: Tensor) -> Memory:
        return self


@dataclass
class Live:
    """Features from an encoder that is trained along."""

    vectors: Tensor
    encoder: nn.Module

    def gather(self, rows: Tensor) -> Pooled:
        return Pooled(self.encoder(self.vectors[rows]))

    def snapshot(self, rows: Tensor) -> Memory:
        self.encoder.eval()
        with torch.no_grad():
            return Memory(self.encoder(self.vectors))


class Net(nn.Module):
    """A trunk and a linear a task; counts nothing, hides nothing."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.trunk = nn.Linear(WIDTH, 16)
        self.branches = nn.ModuleDict({s.name: nn.Linear(16 * s.segments, s.out) for s in SHAPES.values()})

    def forward(self, features: Pooled, task: str) -> Tensor:
        shared = self.dropout(torch.tanh(self.trunk(features.pooled)))
        return finish(self.branches[task](joined(shared)), SHAPES[task])


def make_corpus(sizes: dict[str, int]) -> tuple[Corpus, Tensor]:
    """Labels that a linear map of the features tells, for each task and split."""
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(300, WIDTH, generator=random)
    parts = {}
    for name, shape in SHAPES.items():
        answer = torch.randn(WIDTH * shape.segments, shape.out, generator=random)
        for split, size in (("train", sizes[name]), ("dev", 40)):
            rows = torch.randint(300, (size, shape.segments), generator=random)
            raw = vectors[rows].flatten(1) @ answer
            labels = raw.argmax(1) if shape.classes else shape.stretch(raw[:, 0].div(4).sigmoid())
            parts[name, split] = Part(rows, labels, tuple(map(str, range(size))))
    return Corpus(tuple((str(i),) for i in range(300)), parts), vectors


def make_work(
    tasks: tuple[str, ...] = tuple(TASKS), sampling: str = "proportional", **settings: Any
) -> tuple[Work, Tensor]:
    phase = Phase(**{"epochs": 4, "batch_size": 16, "learning_rate": 0.01, **settings})
    sizes = {"topic": 120, "match": 90, "score": 160}
    corpus, vectors = make_corpus(sizes)
    work = Work(
        phase="pretrain",
        settings=phase,
        tasks={name: TASKS[name] for name in tasks},
        shapes={name: SHAPES[name] for name in tasks},
        losses={name: next(iter(TASKS[name].losses.values())) for name in tasks},
        constant_losses=CONSTANT_LOSSES,
        corpus=corpus,
        order=Order({name: sizes[name] for name in tasks}, phase.batch_size, sampling, 0, "pretrain", phase.epochs),
        seed=0,
        device=torch.device("cpu"),
    )
    return work, vectors


def make_modules(dropout: float = 0.2, encoder: bool = False) -> nn.ModuleDict:
    with global_stream(0, "init"):
        modules = nn.ModuleDict({"head": Net(dropout)})
        if encoder:
            modules["encoder"] = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.1))
        return modules


def train(
    work: Work,
    vectors: Tensor,
    modules: nn.ModuleDict,
    state: State | None = None,
    on_epoch: Callable[[State], None] = lambda state: None,
) -> State:
    reader = Live(vectors, modules["encoder"]) if "encoder" in modules else Memory(vectors)
    return train_phase(work, modules, reader, state or State(work.phase), on_epoch)


def weights(modules: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in modules.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def on_disk(state: State) -> bytes:
    file = io.BytesIO()
    torch.save(vars(state), file)
    return file.getvalue()


def from_disk(data: bytes) -> State:
    return State(**torch.load(io.BytesIO(data), weights_only=True))


def curve(state: State, task: str, split: str, what: str) -> list[float]:
    return [point[what] for point in state.curve if (point["task"], point["split"]) == (task, split)]


@pytest.mark.parametrize("encoder", [False, True], ids=["stored", "live"])
def test_what_can_be_learnt_is_learnt(encoder: bool) -> None:
    work, vectors = make_work(epochs=20, learning_rate=0.02)
    state = train(work, vectors, make_modules(dropout=0.0, encoder=encoder))
    assert not state.diverged
    assert not state.events
    for task in TASKS:
        losses, values = curve(state, task, "train", "loss"), curve(state, task, "dev", "value")
        assert len(losses) == len(values) == 20
        assert losses[-1] < 0.7 * losses[0]
        assert values[-1] > values[0]
        assert values[-1] > 0.7


@pytest.mark.parametrize("encoder", [False, True], ids=["stored", "live"])
@pytest.mark.parametrize("sampling", ["proportional", "round_robin", "annealed"])
def test_resumed_from_any_epoch_it_ends_the_same_to_the_last_bit(encoder: bool, sampling: str) -> None:
    work, vectors = make_work(sampling=sampling, schedule="cosine", warmup=0.2, clip=1.0)
    saved: list[bytes] = []
    modules = make_modules(encoder=encoder)
    whole = train(work, vectors, modules, on_epoch=lambda state: saved.append(on_disk(state)))
    assert len(saved) == 4
    last = from_disk(saved[-1])
    for data in saved:
        torch.manual_seed(len(data))  # another process has another global generator
        again: list[bytes] = [data]
        resumed = make_modules(encoder=encoder)
        for parameter in resumed.parameters():
            parameter.data.fill_(0.5)
        state = train(work, vectors, resumed, from_disk(data), on_epoch=lambda each: again.append(on_disk(each)))  # noqa: B023
        assert equal(weights(resumed), weights(modules))
        end = from_disk(again[-1])
        assert equal(end.weights, last.weights)
        assert end.optimizer["param_groups"] == last.optimizer["param_groups"]
        for index, moments in last.optimizer["state"].items():
            assert equal(end.optimizer["state"][index], moments)
        assert state.curve == whole.curve
        assert state.order_hash == whole.order_hash
        assert (state.epoch, state.best_epoch, state.best_score) == (4, whole.best_epoch, whole.best_score)
        assert state.events == whole.events


def test_a_saved_epoch_is_not_changed_by_the_next() -> None:
    work, vectors = make_work(epochs=3)
    states: list[State] = []
    last: list[dict[str, Tensor]] = []

    def keep(state: State) -> None:
        states.append(from_disk(on_disk(state)))
        last[:] = [copy.deepcopy(state.weights)]

    final = train(work, vectors, make_modules(), on_epoch=keep)
    assert [state.epoch for state in states] == [1, 2, 3]
    assert not equal(states[0].weights, states[1].weights)
    assert equal(states[2].weights, last[0])
    assert [len(state.curve) for state in states] == [6, 12, 18]
    assert final.order_hash == states[2].order_hash != states[1].order_hash


def test_the_best_epochs_weights_are_left() -> None:
    # What is learnt on train is wrong on dev: the more, the worse.
    work, vectors = make_work(("topic", "match"), epochs=6)
    parts = dict(work.corpus.parts)
    for task in work.tasks:
        dev = parts[task, "dev"]
        assert dev.labels is not None
        parts[task, "dev"] = dataclasses.replace(dev, labels=(dev.labels + 1) % SHAPES[task].classes)
    work = dataclasses.replace(work, corpus=Corpus(work.corpus.inputs, parts))
    modules, seen = make_modules(dropout=0.0), []
    state = train(work, vectors, modules, on_epoch=lambda state: seen.append(weights(modules)))
    means = [sum(curve(state, task, "dev", "value")[epoch] for task in work.tasks) / 2 for epoch in range(6)]
    assert state.best_epoch == 1 + max(range(6), key=means.__getitem__) < 6
    assert state.best_score == pytest.approx(max(means))
    assert equal(weights(modules), seen[state.best_epoch - 1])
    assert not equal(weights(modules), seen[-1])


def test_of_equally_good_epochs_the_first_is_kept() -> None:
    work, vectors = make_work(epochs=3, learning_rate=0.0, weight_decay=0.0)
    assert train(work, vectors, make_modules()).best_epoch == 1


@pytest.mark.parametrize("rate", [1e3, 1e5])
def test_a_huge_rate_is_named_as_diverged(rate: float) -> None:
    work, vectors = make_work(("topic",), learning_rate=rate)
    state = train(work, vectors, make_modules())
    assert "topic" in state.diverged
    assert "pretrain" in state.diverged
    assert "epoch" in state.diverged
    assert "\n" not in state.diverged


def test_a_reasonable_rate_is_not() -> None:
    for rate in (1e-5, 1e-3, 1e-2):
        work, vectors = make_work(learning_rate=rate)
        assert train(work, vectors, make_modules()).diverged == ""


def broken_loss(value: float, after: int) -> Callable[[Tensor, Tensor, TaskShape], Tensor]:
    """A loss that fails for good at its batch number `after`, counted from 0, evaluation included."""
    calls = iter(range(10**9))

    def loss(outputs: Tensor, labels: Tensor, shape: TaskShape) -> Tensor:
        return mse(outputs, labels, shape) * (value if next(calls) >= after else 1.0)

    return loss


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_phase(value: float) -> None:
    work, vectors = make_work(epochs=6)
    # Ten batches and one evaluation an epoch: the third epoch breaks.
    work = dataclasses.replace(work, losses={**work.losses, "score": broken_loss(value, after=25)})
    modules, epochs = make_modules(), []
    state = train(work, vectors, modules, on_epoch=lambda state: epochs.append(state.epoch))
    assert state.epoch == 3
    assert epochs == [1, 2, 3]
    assert "score" in state.diverged or "topic" in state.diverged
    assert "pretrain epoch 3" in state.diverged
    assert str(value) in state.diverged or "nan" in state.diverged
    assert 1 <= state.best_epoch <= 2
    assert all(value.isfinite().all() for value in modules.state_dict().values()), "the best weights are left"


def test_a_diverged_phase_stays_so_when_resumed() -> None:
    work, vectors = make_work()
    work = dataclasses.replace(work, losses={**work.losses, "score": broken_loss(math.nan, after=0)})
    saved: list[bytes] = []
    first = train(work, vectors, make_modules(), on_epoch=lambda state: saved.append(on_disk(state)))
    again = train(work, vectors, make_modules(), from_disk(saved[-1]))
    assert first.epoch == again.epoch == 1
    assert again.diverged == first.diverged != ""


class LastStep(Net):
    """Finite while it trains, not a number when it is looked at: weights broken by an epoch's last step."""

    def forward(self, features: Pooled, task: str) -> Tensor:
        outputs = super().forward(features, task)
        return outputs if self.training else outputs * math.nan


def test_outputs_that_are_not_finite_on_dev_are_divergence_too() -> None:
    work, vectors = make_work(epochs=1)
    state = train(work, vectors, nn.ModuleDict({"head": LastStep()}))
    assert "topic" in state.diverged
    assert "pretrain epoch 1" in state.diverged


class Constant(Net):
    def forward(self, features: Pooled, task: str) -> Tensor:
        outputs = super().forward(features, task)
        return outputs * 0 + (torch.arange(outputs.shape[1]) if SHAPES[task].classes else 2.5)


def test_a_head_that_says_one_thing_is_named_each_epoch() -> None:
    work, vectors = make_work(epochs=2)
    state = train(work, vectors, nn.ModuleDict({"head": Constant()}))
    assert len(state.events) == 6
    assert "pretrain epoch 1: topic predicts only class 'z' on dev" in state.events
    assert "pretrain epoch 2: match predicts only class 'yes' on dev" in state.events
    assert any(event.startswith("pretrain epoch 1: score predicts only 2.5") for event in state.events)


def test_collapse_is_told_from_work() -> None:
    topic, score = TASKS["topic"], TASKS["score"]
    numpy = pytest.importorskip("numpy")
    assert collapsed(numpy.array([1, 1, 1]), topic) == "topic predicts only class 'y'"
    assert collapsed(numpy.array([1, 1, 2]), topic) == ""
    assert collapsed(numpy.array([2.5, 2.5 + 1e-5]), score) == "score predicts only 2.5"
    assert collapsed(numpy.array([2.5, 2.6]), score) == ""
    assert collapsed(numpy.array([1]), topic) == collapsed(numpy.array([]), topic) == "", "nothing to tell"


@pytest.mark.parametrize("trained", list(TASKS))
def test_a_tasks_steps_leave_the_other_branches_alone(trained: str) -> None:
    work, vectors = make_work((trained,), weight_decay=0.5)
    modules = make_modules()
    before = weights(modules)
    train(work, vectors, modules)
    for name, value in modules.state_dict().items():
        own = name.startswith(("head.trunk", f"head.branches.{trained}."))
        assert torch.equal(value, before[name]) != own, name


def test_even_after_they_had_steps_of_their_own() -> None:
    # AdamW's momentum must not carry a branch on while other tasks are trained.
    work, vectors = make_work(sampling="round_robin", epochs=1)
    modules = make_modules()
    moved: list[tuple[str, set[str]]] = []

    def watch(name: str) -> Callable[[Tensor, Tensor, TaskShape], Tensor]:
        inner = work.losses[name]

        def loss(outputs: Tensor, labels: Tensor, shape: TaskShape) -> Tensor:
            now = weights(modules)
            if moved and outputs.requires_grad:
                last = moved[-1][0]
                changed = {
                    each
                    for each in TASKS
                    if not torch.equal(now[f"head.branches.{each}.bias"], kept[f"head.branches.{each}.bias"])
                }
                moved[-1] = (last, changed)
            kept.update(now)
            if outputs.requires_grad:
                moved.append((name, {name}))
            return inner(outputs, labels, shape)

        return loss

    kept: dict[str, Tensor] = {}
    train(dataclasses.replace(work, losses={name: watch(name) for name in TASKS}), vectors, modules)
    assert len(moved) > 10
    assert all(changed == {name} for name, changed in moved)


def test_dropout_does_not_move_the_batches() -> None:
    work, vectors = make_work()
    orders = {train(work, vectors, make_modules(dropout)).order_hash for dropout in (0.0, 0.2, 0.6)}
    assert len(orders) == 1
    other, _ = make_work()
    other = dataclasses.replace(other, order=dataclasses.replace(other.order, seed=1))
    assert train(other, vectors, make_modules()).order_hash not in orders


def test_the_order_hash_is_of_all_epochs() -> None:
    work, vectors = make_work(epochs=2)
    last = OrderHash()
    last.epoch(list(work.order.epoch(2)))
    both = OrderHash()
    both.epoch(list(work.order.epoch(1)))
    both.epoch(list(work.order.epoch(2)))
    assert train(work, vectors, make_modules()).order_hash == both.state != last.state


def test_training_leaves_torchs_generator_alone() -> None:
    work, vectors = make_work(epochs=1)
    modules = make_modules()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train(work, vectors, modules)
    assert torch.equal(torch.rand(2), expected)


def test_training_is_a_function_of_the_seed() -> None:
    work, vectors = make_work()
    found = []
    for seed in (0, 0, 1):
        modules = make_modules()
        train(dataclasses.replace(work, seed=seed), vectors, modules)  # the same batches; dropout is what differs
        found.append(weights(modules))
    assert equal(found[0], found[1])
    assert not equal(found[0], found[2])


@pytest.mark.parametrize(
    "settings",
    [{"weight_decay": 1.0}, {"clip": 0.01}, {"schedule": "linear"}, {"warmup": 0.5}, {"learning_rate": 0.02}],
    ids=lambda settings: next(iter(settings)),
)
def test_each_setting_has_an_effect(settings: dict[str, Any]) -> None:
    plain, changed = make_modules(0.0), make_modules(0.0)
    train(*make_work(), plain)
    train(*make_work(**settings), changed)
    assert not equal(weights(plain), weights(changed))


def test_weight_decay_shrinks() -> None:
    norms = []
    for decay in (0.0, 1.0):
        modules = make_modules(0.0)
        state = train(*make_work(weight_decay=decay), modules)
        norms.append(float(sum(value.norm() for value in state.weights.values())))
    assert norms[1] < norms[0]


def test_a_rate_of_zero_changes_nothing() -> None:
    modules = make_modules()
    before = weights(modules)
    train(*make_work(learning_rate=0.0), modules)
    assert equal(weights(modules), before)


def test_the_encoder_is_trained_along_where_it_is_there() -> None:
    modules = make_modules(encoder=True)
    before = weights(modules)
    train(*make_work(), modules)
    assert all(not torch.equal(value, before[name]) for name, value in modules.state_dict().items())


def test_the_mode_of_the_modules_is_set_for_each_part() -> None:
    seen: list[tuple[bool, bool]] = []

    class Watching(Net):
        def forward(self, features: Pooled, task: str) -> Tensor:
            seen.append((self.training, torch.is_grad_enabled()))
            return super().forward(features, task)

    work, vectors = make_work(epochs=2)
    train(work, vectors, nn.ModuleDict({"head": Watching().eval()}))
    steps = work.order.steps()
    assert seen == ([(True, True)] * steps + [(False, False)] * 3) * 2


def test_the_curve_is_of_the_epoch() -> None:
    work, vectors = make_work(epochs=2)
    state = train(work, vectors, make_modules())
    assert [(p["epoch"], p["task"], p["split"]) for p in state.curve] == [
        (epoch, task, split) for epoch in (1, 2) for split in ("train", "dev") for task in TASKS
    ]
    assert {p["phase"] for p in state.curve} == {"pretrain"}
    assert state.train_seconds > 0
    assert state.eval_seconds > 0


@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_wrong_shape_is_one_line_that_says_what_was_expected(width: int) -> None:
    class Wrong(Net):
        def forward(self, features: Pooled, task: str) -> Tensor:
            return features.pooled[:, 0, :width]

    work, vectors = make_work(("topic",))
    message = rf"forward\(features, 'topic'\) must return a tensor \(16, 3\), it returned \(16, {width}\)"
    with pytest.raises(ValueError, match=message) as caught:
        train(work, vectors, nn.ModuleDict({"head": Wrong()}))
    assert "\n" not in str(caught.value)


def test_what_is_no_tensor_is_named() -> None:
    class Wrong(nn.Module):
        def forward(self, features: Pooled, task: str) -> Any:
            return features, task

    with pytest.raises(ValueError, match="it returned tuple"):
        forward(Wrong(), Pooled(torch.zeros(2, 1, 4)), SHAPES["topic"], 2)


def test_half_precision_outputs_are_scored_in_full() -> None:
    outputs = forward(Net().bfloat16(), Pooled(torch.zeros(2, 1, WIDTH, dtype=torch.bfloat16)), SHAPES["topic"], 2)
    assert outputs.dtype == torch.float32


def test_a_large_split_is_scored_in_parts_as_if_in_one() -> None:
    _, vectors = make_work()
    rows = torch.randint(300, (1500, 1), generator=torch.Generator().manual_seed(1))
    part = Part(rows, torch.zeros(1500, dtype=torch.int64), ("",) * 1500)
    head = Net(0.5)
    found = evaluate(head, Memory(vectors), part, TASKS["topic"], SHAPES["topic"], cross_entropy)
    with torch.no_grad():
        outputs = head.eval()(Pooled(vectors[rows]), "topic")
    assert (found.predictions == outputs.argmax(1).numpy()).all()
    assert found.scores == pytest.approx(outputs.softmax(1).max(1).values.numpy(), abs=1e-6)
    assert found.value == float((outputs.argmax(1) == 0).double().mean())
    assert found.loss == pytest.approx(float(cross_entropy(outputs, torch.zeros(1500), SHAPES["topic"])), rel=1e-5)


def test_an_unlabelled_split_has_predictions_and_no_score() -> None:
    work, vectors = make_work()
    part = dataclasses.replace(work.corpus.parts["score", "dev"], labels=None)
    found = evaluate(Net(), Memory(vectors), part, TASKS["score"], SHAPES["score"], mse)
    assert math.isnan(found.value)
    assert math.isnan(found.loss)
    assert found.predictions.shape == found.scores.shape == (40,)


def test_decisions_are_classes_and_scores() -> None:
    predictions, scores = decide(torch.tensor([[0.0, 2.0, 0.0], [3.0, 0.0, 0.0]]), SHAPES["topic"])
    assert predictions.tolist() == [1, 0]
    assert scores.tolist() == pytest.approx([0.787, 0.909], abs=1e-3)
    predictions, scores = decide(torch.tensor([[1.5], [4.0]]), SHAPES["score"])
    assert predictions.tolist() == scores.tolist() == [1.5, 4.0]


def test_a_schedule_runs_over_the_whole_phase() -> None:
    work, vectors = make_work(schedule="linear", learning_rate=1.0)
    last: list[float] = []
    train(work, vectors, make_modules(), on_epoch=lambda s: last.append(s.optimizer["param_groups"][0]["lr"]))
    steps = work.order.steps()
    assert last == pytest.approx([1 - (epoch * steps - 1) / (4 * steps) for epoch in (1, 2, 3, 4)])


def test_each_epoch_draws_its_own_dropout() -> None:
    drawn: list[float] = []

    class Drawing(Net):
        def forward(self, features: Pooled, task: str) -> Tensor:
            if self.training:
                drawn.append(float(torch.rand(())))
            return super().forward(features, task)

    work, vectors = make_work()
    train(work, vectors, nn.ModuleDict({"head": Drawing()}))
    assert len(set(drawn)) == len(drawn) == 4 * work.order.steps()
