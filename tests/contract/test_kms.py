"""What every KMS owes: the claims of dbsec.testing.kms, on a real KEK of each scheme."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from dbsec import discovery
from dbsec.kms import schemes
from dbsec.testing import kms as suite
from dbsec.testing.kms import Provider

SCHEMES = discovery.names_in(schemes)


@pytest.fixture(scope="module")
def provider_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Provider]:
    """Make the provider of a scheme once: tests/kms_providers has a file for each."""
    made: dict[str, Provider] = {}

    def provider(scheme: str) -> Provider:
        if scheme not in made:
            module = importlib.import_module(f"tests.kms_providers.{scheme}")
            made[scheme] = module.provider(request, tmp_path_factory.mktemp(scheme))
        return made[scheme]

    return provider


@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_bears_the_name_of_its_file(scheme):
    module = importlib.import_module(f"{schemes.__name__}.{scheme}")
    assert module.SCHEME.name == scheme.replace("_", "-")
    assert (Path(__file__).parents[1] / "kms_providers" / f"{scheme}.py").exists()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_it_lacks_is_a_claim_and_has_a_reason(scheme, provider_of):
    lacks = provider_of(scheme).lacks
    assert set(lacks) <= set(suite.CLAIMS)
    assert all(lacks.values())
    assert ("away" in lacks) == (provider_of(scheme).away is None)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of forks among threads
@pytest.mark.parametrize("claim", suite.CLAIMS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_holds(scheme, claim, provider_of):
    provider = provider_of(scheme)
    if claim in provider.lacks:
        pytest.skip(provider.lacks[claim])
    assert suite.check(claim, provider) == []
