"""Importing the package, and asking the command line for help, is free."""

import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "polars",
    "pyarrow",
    "faiss",
    "implicit",
    "scipy",
    "matplotlib",
    "ir_measures",
    "safetensors",
}


def modules_after(code: str) -> set[str]:
    program = (
        f"{code}\nimport sys\nprint('\\n'.join(m for m in sys.modules if '.' not in m), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_import_brings_nothing_heavy():
    assert not modules_after("import twotower") & HEAVY


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["recommend", "--help"]])
def test_help_brings_nothing_heavy(arguments):
    code = (
        "import sys\nfrom twotower.cli.main import main\n"
        f"sys.argv = ['twotower', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
    )
    assert not modules_after(code) & HEAVY


def test_every_public_name_is_there_and_the_list_is_sorted():
    import twotower

    assert list(twotower.__all__) == sorted(twotower.__all__)
    for name in twotower.__all__:
        assert getattr(twotower, name) is not None


def test_a_wrong_public_name_is_an_attribute_error():
    import twotower

    with pytest.raises(AttributeError, match="no attribute 'Cascad'"):
        _ = twotower.Cascad
