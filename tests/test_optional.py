"""Optional packages: there, missing, or broken inside."""

import sys

import pytest

from twotower.errors import MissingExtra
from twotower.optional import require


def test_what_is_there_is_imported():
    assert require("json.decoder", extra="none").__name__ == "json.decoder"


@pytest.mark.parametrize("module", ["no_such_package", "no_such_package.inside"])
def test_what_is_missing_names_the_extra(module):
    with pytest.raises(
        MissingExtra, match=rf"{module} is not installed; run: pip install 'twotower\[faiss\]'"
    ):
        require(module, extra="faiss")


def test_it_is_an_import_error_with_an_exit_code_of_its_own():
    with pytest.raises(ImportError) as caught:
        require("no_such_package", extra="faiss")
    assert caught.value.exit_code == 69


def test_a_package_that_is_broken_inside_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import no_such_part\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_part") as caught:
        require("half_installed", extra="faiss")
    assert not isinstance(caught.value, MissingExtra)
    sys.modules.pop("half_installed", None)
