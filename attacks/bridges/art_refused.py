"""Evasion attacks of the Adversarial Robustness Toolbox that do not apply to a score, each with the reason."""

from __future__ import annotations

_OTHER_INPUT = "it attacks {}, not an image's quality"
_PATCH = "it trains one patch for many images, under rotations and scalings; the perturbation of an image is not bounded"
REFUSED = {
    "AdversarialPatch": _PATCH,
    "AdversarialPatchNumpy": _PATCH,
    "AdversarialPatchPyTorch": _PATCH,
    "AdversarialPatchTensorFlowV2": "it is for TensorFlow",
    "AdversarialTexturePyTorch": _OTHER_INPUT.format("object trackers in video"),
    "AutoAttack": "it runs other attacks until a class flips; ask for those by name",
    "BrendelBethgeAttack": "it starts from a misclassified image near the boundary and needs numba; HopSkipJump and FAB "
    "follow the same boundary",
    "CarliniL0Method": "on a linear model it returned the image of the ℓ2 attack, with every value changed",
    "CarliniWagnerASR": _OTHER_INPUT.format("speech recognisers"),
    "CompositeAdversarialAttackPyTorch": "it changes hue, saturation, brightness and orientation, outside every norm here",
    "DPatch": _OTHER_INPUT.format("object detectors"),
    "DecisionTreeAttack": _OTHER_INPUT.format("decision trees"),
    "FeatureAdversariesNumpy": "it copies a layer's features from a guide image; a score has no guide",
    "FeatureAdversariesPyTorch": "it copies a layer's features from a guide image; a score has no guide",
    "FeatureAdversariesTensorFlowV2": "it is for TensorFlow",
    "FrameSaliencyAttack": _OTHER_INPUT.format("video, frame by frame"),
    "GRAPHITEBlackbox": "it makes stickers for photographed objects; no norm bounds them",
    "GRAPHITEWhiteboxPyTorch": "it makes stickers for photographed objects; no norm bounds them",
    "GeoDA": "it takes square images only, searches forever for its first image if noise does not move quality by the "
    "amount, and leaves files in the working folder",
    "HighConfidenceLowUncertainty": _OTHER_INPUT.format("Gaussian process classifiers"),
    "ImperceptibleASR": _OTHER_INPUT.format("speech recognisers"),
    "ImperceptibleASRPyTorch": _OTHER_INPUT.format("speech recognisers"),
    "LaserAttack": "it draws laser beams across the image, outside every norm here",
    "LowProFool": _OTHER_INPUT.format("tabular data, with columns weighted by importance"),
    "MalwareGDTensorFlow": _OTHER_INPUT.format("malware detectors"),
    "OverTheAirFlickeringPyTorch": _OTHER_INPUT.format("video, by flicker"),
    "OverloadPyTorch": _OTHER_INPUT.format("object detectors"),
    "PixelAttack": "it is the one-pixel attack, available as torchattacks:OnePixel with fewer parameters",
    "ProjectedGradientDescentNumpy": "it is what ProjectedGradientDescent runs on a regressor",
    "ProjectedGradientDescentPyTorch": "it is ProjectedGradientDescent for classifiers",
    "ProjectedGradientDescentTensorFlowV2": "it is for TensorFlow",
    "RobustDPatch": _OTHER_INPUT.format("object detectors"),
    "SNAL": _OTHER_INPUT.format("object detectors"),
    "SaliencyMapMethod": "it moves pairs of values toward a class by the gradients of all classes; a score has no classes",
    "ShadowAttack": "it bounds a change by smoothness and colour, which no norm here measures",
    "SpatialTransformation": "it rotates and shifts the image, outside every norm here",
    "TargetedUniversalPerturbation": "it computes one perturbation for a set of images with a target class",
    "ThresholdAttack": "it evolves all values of an image at once, with a covariance of every pair of them: 3·10¹¹ for an "
    "image of 512×384",
    "UniversalPerturbation": "it computes one perturbation for a set of images, until most of them change class",
    "VirtualAdversarialMethod": "it raises a divergence from the clean output, which grows whether quality rises or falls",
    "Wasserstein": "its ball is in the Wasserstein distance, which is not a threat model here",
    "ZooAttack": "it takes two forward passes per changed value: after 2500 of them the perturbation was 23 times as long "
    "as the least one on a linear model of 768 values, and 3.5 times with tuned parameters",
}
