"""A mistake is one line, whatever it quotes."""

from __future__ import annotations

import pickle

from benchkit.core.errors import UserError, unknown


def test_a_text_is_one_line_of_bounded_length() -> None:
    error = UserError("cannot read x:\nfirst\r\nsecond" + "[" * 5000 + "; use another")
    assert "\n" not in str(error)
    assert len(str(error)) < 1100
    assert str(error).startswith("cannot read x: first second[")
    assert str(error).endswith("; use another")


def test_it_crosses_processes() -> None:
    assert str(pickle.loads(pickle.dumps(UserError("no such file")))) == "no such file"


def test_the_nearest_name_is_suggested() -> None:
    assert str(unknown("head", "bnn", ("cnn", "rnn"))).startswith("unknown head 'bnn'; did you mean ")
