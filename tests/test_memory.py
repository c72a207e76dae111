"""Keeping freed memory is for programs, and never fails."""

import os
import subprocess
import sys

import pytest

from twotower import memory


def test_says_whether_the_allocator_was_told():
    program = (
        "import os\nfrom twotower.memory import keep_heap\n"
        "print(keep_heap(1), os.environ['THP_MEM_ALLOC_ENABLE'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    told, huge_pages = done.stdout.split()
    assert told in ("True", "False")
    assert huge_pages == os.environ.get("THP_MEM_ALLOC_ENABLE", "1")


def test_a_choice_of_the_user_stands(monkeypatch):
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert not memory.keep_heap()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"


@pytest.mark.parametrize("error", [OSError, AttributeError])
def test_another_c_library_is_no_error(monkeypatch, error):
    def no_library(_name):
        raise error

    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", no_library)
    assert not memory.keep_heap()
