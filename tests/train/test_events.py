import io
import json

import pytest

from twotower.errors import StorageError
from twotower.train.events import Encoding, EpochEnded, JsonLines, Started, Step, Stopped, all_of
from twotower.train.progress import Progress

EVENTS = [
    Started("cpu", "as set", "fp32", 1000, 0, 2, 10, 20, 5),
    Step(1, 6, 20, {"bce": 0.5, "size": 0.25}, 1.5, 0.01, 12345.6, 75.0),
    EpochEnded(1, 10, 61.0, {"loss/bce": 0.5, "AUC": 0.75}),
    Stopped(2, 20, "all 2 epochs done", 0.75, 1, 3700.0, 1000.0),
]
ENCODING = [
    Encoding("items of minilm", 1024, 5183, 512, seconds, 51.2, 81.0) for seconds in (2.0, 3.0, 11.9, 12.0)
] + [Encoding("items of minilm", 5183, 5183, 512, 91.0, 51.3, 0.0)]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_json_lines_append(tmp_path):
    sink = JsonLines(tmp_path / "new" / "train.jsonl")
    for event in EVENTS:
        sink(event)
    JsonLines(tmp_path / "new" / "train.jsonl")(EVENTS[0])
    lines = [json.loads(line) for line in (tmp_path / "new" / "train.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["started", "step", "epochended", "stopped", "started"]
    assert lines[1]["losses"] == {"bce": 0.5, "size": 0.25}
    assert "time" in lines[0]


def test_a_log_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(StorageError, match="could not be written"):
        JsonLines(tmp_path)(EVENTS[0])


def test_several_listeners():
    heard = []
    all_of(heard.append, heard.append)(EVENTS[0])
    assert heard == [EVENTS[0]] * 2


def test_progress_in_a_pipe_is_one_line_per_epoch():
    stream = io.StringIO()
    with Progress(stream) as progress:
        for event in EVENTS:
            progress(event)
    assert stream.getvalue().splitlines() == [
        "training on cpu (as set), fp32, 1,000 parameters, resumed at step 5",
        "epoch 1  loss/bce 0.5000  AUC 0.7500  1:01",
        "stopped: all 2 epochs done; best 0.7500 in epoch 1; 1:01:40, 1,000 examples/s",
    ]


def test_progress_on_a_terminal_moves_a_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Progress(stream) as progress:
        for event in EVENTS:
            progress(event)
    assert "loss 0.7500  12,346/s  1:15 left" in stream.getvalue()


def test_a_long_encoding_in_a_pipe_is_a_line_every_ten_seconds():
    stream = io.StringIO()
    with Progress(stream) as progress:
        for event in [*ENCODING, *ENCODING]:
            progress(event)
    line = "encoding items of minilm  1,024 of 5,183, 512 of them before  51/s  1:21 left"
    end = "5,183 items of minilm encoded, 512 of them before; 1:31, 51/s"
    assert stream.getvalue().splitlines() == [line, line, end] * 2


def test_a_slow_encoding_has_a_speed_too():
    stream = io.StringIO()
    Progress(stream)(Encoding("items", 2, 9, 0, 10.0, 0.2, 35.0))
    assert stream.getvalue() == "encoding items  2 of 9  0.2/s  0:35 left\n"


def test_bars_of_training_and_encoding_stand_together_and_go(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Progress(stream) as progress:
        for event in [*EVENTS[:2], *ENCODING, *EVENTS[2:], *ENCODING, EVENTS[0], ENCODING[0]]:
            progress(event)
    shown = stream.getvalue()
    assert "loss 0.7500" in shown
    assert "1,024 of 5,183" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") > 0, (
        "the cursor is back, even if it never ended"
    )
