"""Fixtures of the tests of submissions."""

from __future__ import annotations

import pytest

from tests.support.bundles import Bundles, make_bundles


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """A bundle of each kind; all claims are true."""
    return make_bundles(tmp_path_factory.mktemp("bundles"))
