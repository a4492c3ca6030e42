"""The sentence below each kind of plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .text import Plot

CAPTIONS = {
    "bars": "End of training: mean and 95 % t interval over seeds, each seed a dot.",
    "forest": "Difference of each configuration to the best mean at its NFE, paired on n common seeds; right of zero "
    "is worse. Thick: 95 % interval; thin: the interval that holds for all pairs at once. "
    "Filled: significantly worse; hollow: inconclusive. Of many configurations, the first 16.",
    "curves": "Learning curves: mean over seeds against training images seen; the band spans the seeds. A logarithmic "
    "axis shows the end of training: higher values of its beginning are cut off. Of many configurations, the first 12.",
    "cost": "Learning curves against the cost of training: mean over seeds, the band spans the seeds. The cost per "
    "image is taken to be constant: that of one seed's whole training, in proportion. Of many configurations, the "
    "first 12.",
    "nfe": "End of training against network calls per image, configurations side by side: mean and 95 % t interval "
    "over seeds; intervals cut off at the edge extend beyond it. Of many configurations, the first 12.",
    "samples": "Real data, and samples from common latents, of the lowest seed that all configurations share; of many "
    "configurations, the first 24.",
    "nearest": "Curves: the share of samples within a distance of their nearest training image, and of real images "
    "within it of the nearest other real image (grey). Images: the nearest pairs, nearest first, the sample above its "
    "training image, the distance below. Of the lowest seed that all configurations share.",
    "transport": "Lines from the same noise to its samples at NFE 1, coloured by the mode they end in (grey: none), "
    "over real data (black); one seed.",
    "coupling": "Lines from the same data to the noise that training pairs them with, coloured by the mode of the "
    "data; one seed.",
    "posterior": "The noise posterior N(μ, s²) that the coupling has learned for data that all configurations share, "
    "by the averaged encoder, in units of the prior's standard deviation, averaged over colours; of the lowest seed "
    "that all share, of many configurations the first 8.",
    "kl": "KL divergence of the noise posterior from the standard normal during training, unweighted, of the coupled "
    "rows: mean over seeds; the band spans the seeds.",
    "variance": "Against the noise level: mean over seeds, the band spans the seeds; values below a hundred-thousandth "
    "of the largest are drawn there, at the lower edge. Same images, noise and times for all.",
    "losses": "Against the noise level: mean over seeds, the band spans the seeds.",
    "course": "During training: mean over seeds, a line for each bin of the noise level, the noisiest darkest.",
    "values": "End of training against the swept value: mean and 95 % t interval over seeds, each seed a dot.",
    "profile": "Share of the problems in which a configuration is within a factor τ of the best one; at the left edge "
    "the share that it wins, ties included.",
    "grid": "End of training for both swept keys: the mean, below it half the width of its 95 % t interval; the "
    "default is framed.",
}
#: Of the page of a study with a baseline.
BASELINE_CAPTIONS = {
    "forest": CAPTIONS["forest"]
    .replace("the best mean at its NFE", "the baseline")
    .replace("significantly worse", "significant")
}
ABLATION_CAPTIONS = {"curves": "Learning curve of each value: mean over seeds against training images seen."}


def plots_of(
    drawn: Mapping[str, Path], about: str, up: str = "", captions: Mapping[str, str] | None = None
) -> list[Plot]:
    """kind -> file as pictures of a page. up: the path from the page to the report's folder; captions: of its own."""
    known = {**CAPTIONS, **(captions or {})}
    return [Plot(f"{up}plots/{path.name}", f"{about}: {kind}", known[kind]) for kind, path in drawn.items()]
