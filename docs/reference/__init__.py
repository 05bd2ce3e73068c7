"""The pages of docs/ that ``python -m docs.reference`` generates from the registries, a module and a template for each."""

from docs.reference.attacks import attacks_page
from docs.reference.datasets import datasets_page
from docs.reference.defenses import defenses_page
from docs.reference.measures import measures_page
from docs.reference.models import models_page

PAGES = {
    "attacks.md": attacks_page,
    "datasets.md": datasets_page,
    "defenses.md": defenses_page,
    "measures.md": measures_page,
    "models.md": models_page,
}
