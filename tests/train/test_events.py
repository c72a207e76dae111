import io
import json

import pytest

from twotower.errors import StorageError
from twotower.train.events import EpochEnded, JsonLines, Started, Step, Stopped, all_of
from twotower.train.progress import Progress

EVENTS = [
    Started("cpu", "as set", "fp32", 1000, 0, 2, 10, 20, 5),
    Step(1, 6, 20, {"bce": 0.5, "size": 0.25}, 1.5, 0.01, 12345.6, 75.0),
    EpochEnded(1, 10, 61.0, {"loss/bce": 0.5, "AUC": 0.75}),
    Stopped(2, 20, "all 2 epochs done", 0.75, 1, 3700.0, 1000.0),
]


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
