"""Statistics of natural scenes against SciPy; `niqe` and `brisque` against plain computations and other libraries."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import integrate, ndimage, special, stats
from sklearn.svm import SVR

import iqarena.bench.training
from iqarena.bench.datasets.base import Subset
from iqarena.bench.datasets.demo.dataset import Demo
from iqarena.bench.datasets.folder import Folder
from iqarena.bench.datasets.unlabelled import Images
from iqarena.bench.errors import UserError
from iqarena.bench.inference.loading import load_model
from iqarena.bench.training import fit
from iqarena.defenses.training.loop import Schedule
from iqarena.models import brisque, niqe, nss
from iqarena.models.zoo import load_weights, save_weights
from tests.support.attack_runs import random_pixels


@pytest.fixture(autouse=True)
def _few_demo_images(monkeypatch):
    """Use few images of `demo`, since every card states the SROCC on them, which is slow."""
    demo = Demo()
    monkeypatch.setattr(iqarena.bench.training, "Demo", lambda: Subset(demo, demo.spread(8)))


def as_images(*images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """A natural image, (240, 320, 3) uint8."""
    from skimage import data

    return np.ascontiguousarray(data.coffee()[60:300, 100:420])


# --- statistics


@pytest.mark.parametrize(("alpha", "ratio"), [(2.0, 2 / math.pi), (1.0, 0.5)])
def test_normal_and_laplace_have_the_exponents_two_and_one(alpha, ratio):
    assert float(nss.exponent(torch.tensor([ratio], dtype=torch.float64))) == pytest.approx(alpha, abs=1e-6)


def test_the_exponent_inverts_its_ratio_and_has_the_inverses_gradient():
    alphas = np.linspace(0.25, 9.5, 40)

    def ratio_of(alpha):
        return special.gamma(2 / alpha) ** 2 / (special.gamma(1 / alpha) * special.gamma(3 / alpha))

    ratios = torch.from_numpy(ratio_of(alphas)).requires_grad_()
    result = nss.exponent(ratios)
    np.testing.assert_allclose(result.detach(), alphas, rtol=1e-6)
    (gradient,) = torch.autograd.grad(result.sum(), ratios)
    slope = (ratio_of(alphas + 1e-5) - ratio_of(alphas - 1e-5)) / 2e-5
    # the table's secant is over a thousandth: the second derivative's share of it
    np.testing.assert_allclose(gradient, 1 / slope, rtol=5e-3)


def test_exponents_stay_between_their_bounds():
    result = nss.exponent(torch.tensor([-1.0, 0.0, 0.75, 2.0]))
    torch.testing.assert_close(result, torch.tensor([0.2, 0.2, 10.0, 10.0]))


@pytest.mark.parametrize("alpha", [0.6, 1.0, 2.0, 3.5])
def test_a_generalised_gaussian_of_scipy_is_found_again(alpha):
    drawn = stats.gennorm(alpha, scale=1.7).rvs(200_000, random_state=0)
    result, square = nss.fit_ggd(torch.from_numpy(drawn)[None])
    # moments of 200,000 values are known to some tenths of a per cent, and α is up to five times as far off as they
    assert float(result) == pytest.approx(alpha, rel=0.03)
    assert float(square) == pytest.approx(float(np.mean(drawn**2)), rel=1e-12)


@pytest.mark.parametrize(("alpha", "below", "above"), [(0.8, 1.0, 2.0), (1.5, 2.0, 0.7), (2.0, 1.0, 1.0)])
def test_an_asymmetric_one_is_found_again(alpha, below, above):
    stream = np.random.default_rng(0)
    count = 200_000
    # each side is half of a generalised Gaussian, and holds a share of the values as large as its scale's
    sides = stream.random(count) < below / (below + above)
    drawn = np.abs(stats.gennorm(alpha).rvs(count, random_state=stream)) * np.where(sides, -below, above)
    result = [float(value) for value in nss.fit_aggd(torch.from_numpy(drawn)[None])]
    deviation = math.sqrt(special.gamma(3 / alpha) / special.gamma(1 / alpha))
    assert result == pytest.approx([alpha, below * deviation, above * deviation], rel=0.03)

    def density(x):
        return math.exp(-((abs(x) / (below if x < 0 else above)) ** alpha))

    whole = integrate.quad(density, -np.inf, 0)[0] + integrate.quad(density, 0, np.inf)[0]
    mean = sum(integrate.quad(lambda x: x * density(x), *ends)[0] for ends in ((-np.inf, 0), (0, np.inf))) / whole
    exact = nss.mean_of(*(torch.tensor(v, dtype=torch.float64) for v in (alpha, below * deviation, above * deviation)))
    assert float(exact) == pytest.approx(mean, abs=1e-7)


def test_normalised_contrast_is_the_one_of_scipy(scene):
    gray = nss.luma(as_images(scene))
    values = gray[0, 0].numpy()
    np.testing.assert_allclose(values, scene @ (0.2989, 0.5870, 0.1140), atol=1e-4)

    def blurred(images):
        return ndimage.gaussian_filter(images, 7 / 6, mode="nearest", radius=3)

    mean = blurred(values)
    deviation = np.sqrt(np.maximum(blurred(values**2) - mean**2, 0))
    result, result_deviation = nss.mscn(gray)
    np.testing.assert_allclose(result[0, 0], (values - mean) / (deviation + 1), atol=1e-9)
    np.testing.assert_allclose(result_deviation[0, 0], deviation, atol=1e-6)


def test_natural_images_come_close_to_the_unit_normal_and_spoilt_ones_do_not(scene):
    noisy = np.clip(scene + np.random.default_rng(0).normal(0, 40, scene.shape), 0, 255).astype(np.uint8)
    soft = np.stack([ndimage.gaussian_filter(scene[..., c], 3) for c in range(3)], axis=-1)
    values = nss.mscn(nss.luma(as_images(scene, noisy, soft)))[0]
    alphas = nss.fit_ggd(values)[0]
    # Mittal et al. 2012, figure 2: noise goes towards a normal, blur towards a peak
    assert alphas[2] < alphas[0] < alphas[1]


def test_neighbours_are_the_four_of_the_paper():
    values = torch.arange(1.0, 13).view(1, 3, 4)
    centre = values[0, 1, 1]
    others = [float(product[0, 1, 1] / centre) for product in nss.neighbour_products(values)]
    assert others == pytest.approx([5, 2, 1, 9])  # left, above, and the ends of the two diagonals


@pytest.mark.parametrize("shape", [(64, 96), (65, 97)])
def test_half_size_is_pillows(shape, scene):
    gray = scene[: shape[0], : shape[1], 1]
    small = nss.halved(torch.from_numpy(gray).float()[None, None])[0, 0]
    size = (-(-shape[1] // 2), -(-shape[0] // 2))
    pillow = np.asarray(Image.fromarray(gray.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
    np.testing.assert_allclose(small, pillow, atol=1e-2)


# --- niqe


def test_niqe_features_are_those_of_each_block(scene):
    images = as_images(scene)
    result, sharpness = niqe.block_features(images)
    assert result.shape == (1, 6, 36)
    gray = nss.luma(images[..., :192, :288])
    full, half = nss.mscn(gray), nss.mscn(nss.halved(gray))[0]
    for number, (top, left) in enumerate((top, left) for top in (0, 96) for left in (0, 96, 192)):
        block = full[0][:, 0, top : top + 96, left : left + 96]
        small = half[:, 0, top // 2 : top // 2 + 48, left // 2 : left // 2 + 48]
        alone = torch.cat([niqe._features(block), niqe._features(small)], dim=1)
        torch.testing.assert_close(result[:, number], alone)
        deviation = full[1][..., top : top + 96, left : left + 96].mean()
        torch.testing.assert_close(sharpness[0, number], deviation)


def test_niqe_is_the_distance_of_the_paper(scene):
    model = load_model("niqe")
    images = as_images(scene, scene[:, ::-1].copy())
    features = niqe.block_features(images)[0].numpy()
    with torch.inference_mode():
        for blocks, score in zip(features, model(images), strict=True):
            away = blocks.mean(axis=0) - model.mean.numpy()
            inverse = np.linalg.pinv((np.cov(blocks.T) + model.covariance.numpy()) / 2)
            assert float(score) == pytest.approx(math.sqrt(away @ inverse @ away), rel=1e-5)


def test_niqe_of_one_block_takes_the_pristine_covariance_alone(scene):
    model = load_model("niqe")
    images = as_images(scene[:100, :110])
    away = niqe.block_features(images)[0][0, 0].numpy() - model.mean.numpy()
    expected = math.sqrt(away @ np.linalg.inv(model.covariance.numpy() / 2) @ away)
    assert float(model(images)) == pytest.approx(expected, rel=1e-5)


def test_niqe_rates_pristine_images_best_and_kodaks_as_published(data_root):
    model = load_model("niqe")
    kodak = [np.asarray(Image.open(data_root / "kodak24" / f"kodim{number:02}.png")) for number in (1, 7, 13, 19, 23)]
    soft = [np.stack([ndimage.gaussian_filter(p[..., c], 2) for c in range(3)], axis=-1) for p in kodak]
    with torch.inference_mode():
        scores = [[float(model(as_images(image))) for image in image_set] for image_set in (kodak, soft)]
    assert max(scores[0]) < min(scores[1])
    # published programs give the 24 images about 3 on average, whatever the pristine set
    assert 2 < np.mean(scores[0]) < 4


def test_niqe_is_fitted_to_the_sharp_blocks_of_images(scene, tmp_path):
    root = tmp_path / "pristine"
    root.mkdir()
    blurred = np.stack([ndimage.gaussian_filter(scene[..., c], 6) for c in range(3)], axis=-1)
    half = np.concatenate([scene[:96, :192], blurred[:96, :192]])  # its lower blocks are not sharp
    for number in range(30):
        Image.fromarray(np.roll(half, 5 * number, axis=1)).save(root / f"{number:02}.png")
    file = fit("niqe", "none", Images(root), Schedule(), tmp_path / "out")
    model = niqe.NIQE()
    load_weights(model, file)
    features, sharpness = niqe.block_features(as_images(*(np.roll(half, 5 * number, axis=1) for number in range(30))))
    sharp = features[sharpness > 0.75 * sharpness.amax(dim=1, keepdim=True)].numpy()
    assert 36 < len(sharp) < 120
    np.testing.assert_allclose(model.mean, sharp.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(model.covariance, np.cov(sharp.T), rtol=1e-6, atol=1e-12)


def test_niqe_says_what_it_cannot_be_fitted_to(scene, tmp_path):
    Image.fromarray(scene[:96, :96]).save(tmp_path / "one.png")
    with pytest.raises(UserError, match="1 sharp blocks in 1 images are too few"):
        fit("niqe", "none", Images(tmp_path), Schedule(), tmp_path / "out")
    Image.fromarray(scene[:90, :96]).save(tmp_path / "two.png")
    with pytest.raises(UserError, match="96×90; give ones of 96×96 or more"):
        fit("niqe", "none", Images(tmp_path), Schedule(), tmp_path / "out")
    with pytest.raises(UserError, match="fitted in one go"):
        fit("niqe", "adversarial-training", Images(tmp_path), Schedule(), tmp_path / "out")


# --- brisque


def test_brisque_features_are_those_of_piq(scene):
    library = pytest.importorskip("piq.brisque", exc_type=Exception, reason="needs piq")
    # piq pads with zeros and this with the edge: on a black margin both are the same
    image = np.zeros((120, 150, 3), np.uint8)
    image[10:-10, 10:-10] = scene[:100, :130]
    gray = nss.luma(as_images(image))
    theirs = library._natural_scene_statistics(gray, 7, 7 / 6)[0]
    # piq takes the nearest α of a table in thousandths, and the means follow from α
    torch.testing.assert_close(brisque._features(gray)[0], theirs, atol=6e-4, rtol=0)


@pytest.fixture
def rated(scene, tmp_path) -> Folder:
    """A data set of crops under noise; the label falls with the noise."""
    root = tmp_path / "rated"
    root.mkdir()
    stream = np.random.default_rng(0)
    rows = []
    for number in range(60):
        level, top, left = stream.uniform(0, 50), stream.integers(0, 180), stream.integers(0, 260)
        crop = scene[top : top + 60, left : left + 60]
        Image.fromarray(np.clip(crop + stream.normal(0, level, crop.shape), 0, 255).astype(np.uint8)).save(
            root / f"{number}.png"
        )
        rows.append((f"{number}.png", str(number), 1 - level / 50, "validation" if number % 4 == 0 else "training"))
    pd.DataFrame(rows, columns=["image", "reference_id", "mos", "split"]).to_csv(root / "labels.csv", index=False)
    return Folder(root)


def test_brisque_is_scikit_learns_regression_on_its_features(rated, tmp_path):
    file = fit("brisque", "none", rated, Schedule(), tmp_path / "out")
    model = brisque.BRISQUE()
    load_weights(model, file)
    chosen = [i for i, split in enumerate(rated.split()) if split == "training"]
    images = torch.stack([rated.image(i) for i in range(len(rated))]).float() / 255
    table = brisque.features(images)
    low, high = table[chosen].amin(0).float(), table[chosen].amax(0).float()
    scaled = (2 * (table - low) / (high - low) - 1).numpy()
    theirs = SVR(C=brisque.COST, gamma=brisque.WIDTH, epsilon=brisque.TUBE)
    theirs.fit(scaled[chosen], [rated.mos(i) for i in chosen])
    np.testing.assert_allclose(model(images), theirs.predict(scaled), atol=1e-4)
    card = file.with_suffix(".yaml").read_text()
    assert "support_vectors: " in card
    others = [i for i in range(len(rated)) if i not in chosen]
    assert stats.spearmanr(model(images[others]), [rated.mos(i) for i in others]).statistic > 0.8


def test_brisque_needs_labels(scene, tmp_path):
    Image.fromarray(scene).save(tmp_path / "one.png")
    with pytest.raises(UserError, match="lacks labels"):
        fit("brisque", "none", Images(tmp_path), Schedule(), tmp_path / "out")


def test_brisque_takes_as_many_vectors_as_its_file_has(tmp_path):
    torch.manual_seed(0)
    model = brisque.BRISQUE()
    model.vectors, model.coefficients = torch.rand(3, 36), torch.rand(3)
    save_weights(model, tmp_path / "three.safetensors", {})
    images = random_pixels(2, 40, 50).float() / 255
    expected = model(images)
    other = brisque.BRISQUE()
    load_weights(other, tmp_path / "three.safetensors")
    assert torch.equal(other(images), expected)


def test_brisque_gives_scores_only():
    images = (random_pixels(1, 40, 50).float() / 255).requires_grad_()
    assert not brisque.BRISQUE()(images).requires_grad
    assert not brisque.BRISQUE.info.differentiable
