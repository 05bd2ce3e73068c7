"""`sortmask`: only the activation of the journal version of CPRL, with plain training.

Our reconstruction from the abstract of Displays 88 (2025) 103046, according to which a plug-and-play SortMask module "blocks
small changes around the mean" to reduce the Lipschitz constant; the equations of the paper are not available to us.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from iqarena.defenses.architecture.base import SeamBlock, WithBlock
from iqarena.defenses.cprl.model import StraightThrough
from iqarena.defenses.cprl.sort_mask import SortMask
from iqarena.models.base import QualityModel


@dataclass(frozen=True)
class SortMaskDefense(SeamBlock):
    """SortMask on the last feature maps. The surrogate of the hard form is the identity (BPDA), that of the soft form exact.

    Attributes:
        share: fraction of the values of a channel that are replaced by its mean.
        form: "soft" or "hard".
    """

    name: ClassVar[str] = "sortmask"
    paper: ClassVar[str] = "https://doi.org/10.1016/j.displa.2025.103046 (our reconstruction from the abstract)"
    over_places: ClassVar[bool] = True

    share: float = 0.3
    form: Literal["soft", "hard"] = "soft"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.share < 1:
            raise ValueError(f"{self.name}: share {self.share:g} is outside [0, 1)")
        if self.form == "hard":
            object.__setattr__(self, "surrogate_kind", "identity")

    def block(self, channels: int) -> nn.Module:
        return SortMask(self.share, self.form)

    def surrogate(self, model: QualityModel) -> QualityModel:
        deployed = self.protect(model)
        if self.form == "hard" and isinstance(deployed, WithBlock) and isinstance(deployed.block, SortMask):
            deployed.block = StraightThrough(deployed.block)
        return deployed
