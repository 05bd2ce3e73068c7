"""The pages of docs/ that say what the registries say, one file a page; ``python -m bench.reference`` writes them."""

from bench.reference.attacks import attacks_page
from bench.reference.datasets import datasets_page
from bench.reference.defenses import defenses_page
from bench.reference.measures import measures_page
from bench.reference.models import models_page

PAGES = {
    "attacks.md": attacks_page,
    "datasets.md": datasets_page,
    "defenses.md": defenses_page,
    "measures.md": measures_page,
    "models.md": models_page,
}
