"""How good is it: pure functions on segments, numpy only. Each file's docstring is its metric's specification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TaskName = Literal["detection", "proposals", "grounding", "highlights", "frames", "captions", "episodes", "diagnosis"]
"""What can be scored: the keys of :data:`METRICS`."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A line of ``docs/metrics.md``."""

    title: str
    figures: str
    source: str
    traps: str


METRICS: dict[str, Metric] = {
    "detection": Metric(
        "Temporal action detection",
        "mAP at each tIoU and their mean, AP of every class; TH14evalDet's AP; Recall@kx; mean and spread over "
        "zero-shot splits",
        "ActivityNet's eval_detection; THUMOS14's TH14evalDet; Ego4D's Moment Queries",
        "The two styles differ by up to 3 points on the same file. Papers score 4,926, 4,728 or fewer validation "
        "videos of ActivityNet, with and without a list of blocked ones."),
    "proposals": Metric(
        "Class-agnostic proposals",
        "AR@AN and the area under it (AUC)",
        "ActivityNet's eval_proposal",
        "Officially proposals are allotted in proportion to how many each video has, so AR@1 is not the first of every "
        "video; the area is divided by the last AN, so 99 is the most there can be."),
    "grounding": Metric(
        "Sentence to moment",
        "R@n, IoU=m and mean tIoU of the first answer",
        "Gao et al., TALL, ICCV 2017; 2D-TAN's code",
        "Some codes ask for tIoU above m (--strict), some for m or more. R@5 of Charades-STA is within reach of a list "
        "that never looks."),
    "highlights": Metric(
        "Moments and highlights of QVHighlights",
        "MR-R1, MR-mAP by length, HL-mAP and HIT@1 for Fair, Good and VeryGood",
        "Lei et al., QVHighlights, NeurIPS 2021; Moment-DETR's standalone_eval",
        "The ceiling of HL-mAP at VeryGood is about 61: raters disagree. Only the first ten windows of a query count."),
    "frames": Metric(
        "Action segmentation",
        "accuracy with and without background, frame mAP, edit score, F1@{10, 25, 50}",
        "Lea et al., TCN, CVPR 2017; MS-TCN's eval; COIN",
        "Accuracy counts background in most papers; where all is background it can be high for nothing. The released "
        "code fails on empty truth; here such values are defined."),
    "captions": Metric(
        "Dense captioning",
        "BLEU 1-4, METEOR, ROUGE-L, CIDEr over tIoU .3/.5/.7/.9, precision and recall, SODA_c",
        "densevid_eval (Krishna et al., ICCV 2017); Fujita et al., SODA, ECCV 2020",
        "Captions of the truth's own segments and of learnt proposals are on different scales. A video without "
        "predictions scores 0. Other programs called METEOR give other numbers."),
    "episodes": Metric(
        "Few-shot localization",
        "mAP over draws with a 95 % interval; QAT's scoring as released",
        "Nag et al., QAT; its released code",
        "The released scoring tells the method the label of every video: a constant box reaches 38.8 average mAP, "
        "as much as what is published."),
    "diagnosis": Metric(
        "Where a detector's errors are",
        "mAP_N, five kinds of false positives and what each costs, sensitivity to five characteristics, what is missed",
        "Alwassel et al., DETAD, ECCV 2018",
        "The released filter over thresholds is cumulative; --no-official takes each on its own."),
}
