"""Certificates against binomial sums, closed forms and brute force; and certificates under random and attacked changes."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from iqarena.bench.inference.loading import load_model
from iqarena.bench.registry import DEFENSES
from iqarena.defenses.base import DoesNotApply
from iqarena.defenses.certified.median import DenoisedMedianSmoothing, MedianSmoothing, upper_rank
from iqarena.defenses.certified.randomized import DenoisedRandomizedSmoothing, RandomizedSmoothing, share_shown
from iqarena.defenses.certified.smoothing import draws_needed, noisy_qualities, quorum, share_needed
from iqarena.defenses.purification.denoiser import ResidualDenoiser
from iqarena.models.base import ModelInfo
from iqarena.models.zoo import save_weights
from tests.audits.certificates import CASES, Bumpy, Untrained, check_certificates, small
from tests.support.analytic_models import LinearModel, MeanModel, NaNModel
from tests.support.attack_runs import random_pixels

SMOOTHED = [MedianSmoothing, RandomizedSmoothing]
DENOISED = [DenoisedMedianSmoothing, DenoisedRandomizedSmoothing]

# --- the statistics


def binomial_below(least: int, draws: int, share: float) -> float:
    """Return P(Bin(draws, share) < least), summed term by term."""
    return math.fsum(math.comb(draws, k) * share**k * (1 - share) ** (draws - k) for k in range(least))


@pytest.mark.parametrize(("draws", "share", "risk"), [(1000, 0.6615, 0.001), (100, 0.5, 0.01), (37, 0.9, 0.05)])
def test_rank_is_the_least_whose_order_statistic_reaches_the_quantile(draws, share, risk):
    rank = upper_rank(draws, share, risk)
    assert binomial_below(rank, draws, share) >= 1 - risk > binomial_below(rank - 1, draws, share)


def test_ideal_ranks_are_the_peers_at_their_parameters():
    # σ 0.12, N 1000, ε 0.05, .001 a side: the least q with cdf(q − 1; N, Φ(ε/σ)) > .999, the greatest with 1 − cdf > .999
    above, below = stats.norm.cdf([0.05 / 0.12, -0.05 / 0.12])
    high = next(q for q in range(1001) if stats.binom.cdf(q - 1, 1000, above) > 0.999)
    low = max(q for q in range(1001) if 1 - stats.binom.cdf(q - 1, 1000, below) > 0.999)
    rank = upper_rank(1000, share_needed(0.5, 0.05 / 0.12), 0.001)
    assert (rank, 1001 - rank) == (high, low)


@pytest.mark.parametrize(("draws", "risk"), [(1, 0.01), (2, 0.01), (100, 0.00025), (101, 0.05)])
def test_quorum_makes_more_than_half_agree_save_for_the_risk(draws, risk):
    assert stats.binom.sf(draws // 2, draws, quorum(draws, risk)) == pytest.approx(1 - risk, abs=1e-9)


def test_share_needed_is_cohens_for_a_half_and_grows_with_the_step():
    assert share_needed(0.5, 0.4) == pytest.approx(stats.norm.cdf(0.4))
    # Φ(Φ⁻¹(share) − step) is what is left of it
    assert stats.norm.cdf(stats.norm.ppf(share_needed(0.7, 1.5)) - 1.5) == pytest.approx(0.7)


@pytest.mark.parametrize(("share", "risk"), [(0.9, 0.001), (0.99, 0.01), (0.5, 0.2)])
def test_draws_needed_is_the_least_number_with_a_finite_order_statistic(share, risk):
    needed = int(draws_needed(share, risk))
    assert upper_rank(needed, share, risk) <= needed
    assert upper_rank(needed - 1, share, risk) > needed - 1
    assert share_shown(needed, needed, risk) >= share > share_shown(needed - 1, needed - 1, risk)


@pytest.mark.parametrize(("inside", "draws", "risk"), [(0, 10, 0.1), (7, 10, 0.05), (990, 1000, 0.001), (50, 50, 0.01)])
def test_share_shown_is_clopper_and_pearsons(inside, draws, risk):
    expected = stats.binomtest(inside, draws, alternative="greater").proportion_ci(1 - risk, "exact").low
    assert share_shown(inside, draws, risk) == pytest.approx(expected, abs=1e-9)


# --- smoothing on a linear model, where all is known: f(x + σn) is normal around f(x) with deviation σ‖w‖


@pytest.mark.parametrize("radius", [0.02, 0.1])
def test_median_interval_of_a_linear_model_holds_the_exact_one_and_is_near_it(radius):
    model, images = LinearModel(8, 8), random_pixels(3, 8, 8).float() / 255
    defense = MedianSmoothing(certify_draws=4000, batch=4000)
    steepness = defense.sigma * float(model.weight.detach().norm())
    torch.manual_seed(0)
    certificate = defense.certify(model, images, radius, ideal=True)
    centre = model.quality(images).detach().double()
    out = radius / defense.sigma * steepness  # ε‖w‖
    rank = upper_rank(4000, share_needed(0.5, radius / defense.sigma), 0.0005)
    # the rank-th smallest of 4,000 is above that quantile with probability 1e-6 (its share of a uniform draw is a Beta)
    most = stats.norm.ppf(stats.beta.ppf(1 - 1e-6, rank, 4000 - rank + 1)) * steepness
    for side in (certificate.upper - centre, centre - certificate.lower):
        assert (side >= out).all()
        assert (side <= most).all()
    # "near": 3.3 (the risk) + 4.8 (1e-6) standard errors of a quantile, √(p(1 − p)/4000) over the density, 0.023 at most
    assert most < out + 0.19 * steepness


def test_interval_of_the_deployed_median_is_wider_than_the_papers_and_narrows_with_its_draws():
    model, images = LinearModel(8, 8), random_pixels(1, 8, 8).float() / 255
    widths = []
    for draws, ideal in ((10, False), (100, False), (1000, False), (1000, True)):
        torch.manual_seed(0)
        certificate = MedianSmoothing(draws=draws, batch=1000).certify(model, images, 0.05, ideal=ideal)
        widths.append(float(certificate.upper - certificate.lower))
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == 4


def test_a_bin_is_certified_exactly_up_to_cohens_radius():
    model, images = LinearModel(8, 8, reach=1.0), torch.full((1, 3, 8, 8), 0.5)  # quality 0.5 is an edge of the ten bins
    torch.manual_seed(0)
    edge = RandomizedSmoothing(batch=1000).certify(model, images, 0.05)
    assert (float(edge.lower), float(edge.upper)) == pytest.approx((-0.1, 1.1))  # half of the draws on each side: abstains
    odd = RandomizedSmoothing(bins=5, batch=1000, confidence=0.999)  # the middle of bin [0.4, 0.6)
    certificate = odd.certify(model, images, 0.05, ideal=True)
    assert (float(certificate.lower), float(certificate.upper)) == pytest.approx((0.4, 0.6))
    assert float(certificate.upper) < 0.6
    # all 1,000 draws are inside (0.1 is 11 deviations away), so Cohen's radius is σΦ⁻¹(risk^(1/1000))
    radius = 0.12 * stats.norm.ppf(0.001 ** (1 / 1000))
    odd.certify(model, images, radius * 0.999, ideal=True)
    with pytest.raises(ValueError, match="1000 draws cannot certify"):
        odd.certify(model, images, radius * 1.001, ideal=True)


def test_bins_are_half_open_with_two_outside():
    values = torch.tensor([-0.01, 0.0, 0.099, 0.1, 0.95, 0.9999, 1.0, 3.0], dtype=torch.float64)
    assert RandomizedSmoothing().bin_of(values).tolist() == [0, 1, 1, 2, 10, 10, 11, 11]
    votes = torch.tensor([0.12, 0.13, 0.55], dtype=torch.float64)
    assert float(RandomizedSmoothing().vote(votes)) == pytest.approx(0.15)
    assert float(RandomizedSmoothing().vote(torch.tensor([2.0]))) == pytest.approx(1.05)


# --- deployment


class Watched(MeanModel):
    """A model that records the largest batch it scored."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def forward(self, images):
        self.largest = max(self.largest, len(images))
        return super().forward(images)


def test_a_thousand_draws_stream_and_do_not_depend_on_the_batch():
    image = random_pixels(1, 9, 7)[0].float() / 255
    results = []
    for batch in (1, 7, 64):
        model = Watched()
        torch.manual_seed(3)
        results.append(noisy_qualities(model, image, 1000, 0.12, batch))
        assert model.largest == batch
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])
    assert abs(float(results[0].std()) - 0.12 / math.sqrt(189)) < 0.1 * 0.12 / math.sqrt(189)  # σ/√n; 4.5 standard errors


@pytest.mark.parametrize("cls", SMOOTHED)
def test_deployed_scores_are_seeded_votes_without_a_graph(cls):
    defense, model, images = cls(draws=20), Bumpy(), small(3, 0)
    protected = defense.protect(model)
    assert protected.info.stochastic
    scores = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        scores.append(protected(images.clone().requires_grad_()))
    assert torch.equal(scores[0], scores[1])
    assert not scores[0].requires_grad
    torch.manual_seed(0)
    by_hand = [defense.vote(noisy_qualities(model, image, 20, 0.12, 16)) for image in images]
    torch.testing.assert_close(scores[0], torch.stack(by_hand).float())
    assert not torch.equal(MedianSmoothing(draws=20).protect(model)(images), scores[2])


@pytest.mark.parametrize("cls", SMOOTHED)
def test_quality_of_a_model_on_another_scale_is_the_same(cls):
    class Reversed(MeanModel):
        info = ModelInfo("reversed", score_range=(10, 30), higher_is_better=False, min_size=1)

        def forward(self, images):
            return 30 - 20 * super().forward(images)

    images = random_pixels(2).float() / 255
    results = []
    for model in (MeanModel(), Reversed()):
        for smoothed in (cls(draws=20).protect(model), cls().surrogate(model)):
            torch.manual_seed(0)
            results.append(smoothed.quality(images).detach())
    torch.testing.assert_close(results[0], results[2], atol=1e-5, rtol=0)
    torch.testing.assert_close(results[1], results[3], atol=1e-5, rtol=0)


@pytest.mark.parametrize("cls", SMOOTHED)
def test_what_is_not_a_number_is_passed_on_and_certifies_nothing(cls):
    images = random_pixels(1).float() / 255
    assert cls(draws=5).protect(NaNModel())(images).isnan().all()
    certificate = cls(certify_draws=500).certify(NaNModel(), images, 0.01)
    assert (float(certificate.lower), float(certificate.upper)) == (-math.inf, math.inf)


@pytest.mark.parametrize("cls", SMOOTHED)
def test_surrogate_climbs_what_is_deployed(cls, natural):
    model = load_model("resnet-iqa")
    images = torch.from_numpy(natural.transpose(2, 0, 1).copy())[None].float() / 255
    defense = cls(draws=100)
    torch.manual_seed(0)
    leaf = images.clone().requires_grad_()
    stand_in = defense.surrogate(model).quality(leaf)
    (gradient,) = torch.autograd.grad(stand_in.sum(), leaf)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).float().mean() > 0.99
    deployed = defense.protect(model)
    before, high, low = (
        float(deployed.quality(images + step * gradient / gradient.norm()))
        for step in (0.0, 3.0, -3.0)
    )  # fmt: skip
    # the mean of four draws beside the vote of a hundred: four draws of this model scatter by about 0.05, half a bin is 0.05
    assert abs(before - float(stand_in.detach())) < 0.15
    assert high > low + 0.05


@pytest.mark.parametrize("cls", DENOISED)
def test_denoised_variants_put_the_denoiser_of_a_file_before_the_model(cls, tmp_path, monkeypatch):
    torch.manual_seed(0)
    network, path = ResidualDenoiser(), tmp_path / "d.safetensors"
    torch.nn.init.normal_(network.body[-1].weight, std=0.05)
    save_weights(network, path, {})
    images, model = random_pixels(2).float() / 255, MeanModel()
    defense = cls(weights=str(path), draws=10)
    deployed = defense.protect(model)  # builds a network, which draws its first weights
    torch.manual_seed(1)
    result = deployed(images)
    torch.manual_seed(1)
    votes = []
    for image in images:
        noisy = image + 0.12 * torch.stack([torch.randn(image.shape) for _ in range(10)])
        with torch.no_grad():
            votes.append(defense.vote(model.quality(network(noisy).clamp(0, 1)).double()))
    torch.testing.assert_close(result, torch.stack(votes).float())
    assert defense.protect(model).info.weights_sha256 != model.info.weights_sha256
    leaf = images.clone().requires_grad_()
    assert torch.autograd.grad(defense.surrogate(model)(leaf).sum(), leaf)[0].abs().sum() > 0
    monkeypatch.setattr("iqarena.defenses.purification.trained.weight_file", lambda name: tmp_path / "none.safetensors")
    with pytest.raises(DoesNotApply, match="no trained weights of denoiser"):
        cls().protect(model)


@pytest.mark.parametrize("name", ["median-smoothing", "randomized-smoothing", "lipschitz"])
@pytest.mark.parametrize("radius", [0.0, -1.0, math.nan, math.inf])
def test_a_radius_that_is_not_above_zero_is_refused(name, radius, tmp_path):
    with pytest.raises(ValueError, match=r"radius .* is not above 0"):
        (Untrained() if name == "lipschitz" else DEFENSES.build(name)).certify(MeanModel(), small(1, 0), radius)


@pytest.mark.parametrize("cls", SMOOTHED)
@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"sigma": 0.0}, "sigma 0 is not above 0"), ({"sigma": -0.1}, "sigma -0.1"), ({"confidence": 1.0}, "outside"),
     ({"draws": 0}, "draws 0 is below 1"), ({"batch": 0}, "batch 0")],
)  # fmt: skip
def test_bad_parameters_are_refused_in_one_line(cls, parameters, message):
    with pytest.raises(ValueError, match=message):
        cls(**parameters)


@pytest.mark.parametrize("cls", SMOOTHED)
def test_too_few_draws_say_how_many_are_needed(cls):
    with pytest.raises(ValueError, match=r"20 draws cannot certify .* it takes certify_draws=(\d+) ") as error:
        cls(certify_draws=20).certify(MeanModel(), small(1, 0), 0.05)
    needed = int(str(error.value).partition("certify_draws=")[2].split()[0])
    assert cls(certify_draws=needed).certify(MeanModel(), small(1, 0), 0.05).lower.isfinite().all()
    with pytest.raises(ValueError, match=f"{needed - 1} draws cannot"):
        cls(certify_draws=needed - 1).certify(MeanModel(), small(1, 0), 0.05)
    with pytest.raises(ValueError, match="it takes a larger sigma"):
        cls().certify(MeanModel(), small(1, 0), 50.0)


# --- certificates are kept (tests/audits/certificates.py has the full count)


@pytest.mark.parametrize(("defense", "model", "radius"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
@pytest.mark.parametrize("attacked", [False, True])
def test_certificates_are_kept(defense, model, radius, attacked):
    count = 6 if "denoised" in defense.name else 20  # the denoiser is slow
    kept = check_certificates(defense, model, small(count, 5), radius, attacked)
    assert kept.sound, kept
    assert kept.abstained < kept.total / 2  # abstentions prove nothing


def test_a_certificate_for_a_shorter_radius_than_was_used_is_found_out():
    defense = MedianSmoothing(certify_draws=300, batch=300, draws=300, confidence=0.9)
    assert not check_certificates(
        defense, LinearModel(reach=5.0), small(20, 6), 0.3, attacked=True, certified_radius=0.1
    ).sound
    assert not check_certificates(
        Untrained(slope=200.0), LinearModel(), small(20, 6), 50.0, attacked=True, certified_radius=0.001
    ).sound
