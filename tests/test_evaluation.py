"""Scores with what they are worth beside them: what is scored, what the floor learns from, what is said."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from conftest import shared

from cuemark.conversion import predictions_of, truth_of
from cuemark.datasets import FORMATS
from cuemark.datasets.format import Reading
from cuemark.errors import CallError, DataError
from cuemark.evaluation import TASKS, compare, draw_episodes, evaluate
from cuemark.floors import oracle_highlights
from cuemark.metrics import METRICS, TaskName
from cuemark.metrics.episodes import read_episodes
from cuemark.segments import Moments, Predictions, Segment, Truth, VideoTruth, write_predictions, write_truth


def world(seed: int = 0, counts: tuple[tuple[str, int], ...] = (("training", 12), ("validation", 5), ("testing", 6))
          ) -> Truth:
    """Videos of several lengths with two actions each, each told in a sentence."""
    rng = np.random.default_rng(seed)
    truth = {}
    for name, count in counts:
        for i in range(count):
            duration = float(rng.uniform(20, 90))
            cuts = np.sort(rng.uniform(0, duration, 4))
            labels = rng.choice(["jump", "run", "swim"], 2, replace=False)
            truth[f"{name}_{i}"] = VideoTruth(duration, tuple(
                Segment(a, b, str(label), sentence=f"someone will {label} in video {i}")
                for a, b, label in ((cuts[0], cuts[1], labels[0]), (cuts[2], cuts[3], labels[1]))), name)
    return truth


def perfect(truth: Truth, *names: str) -> Predictions:
    return {vid: [replace(s, score=0.9, query=s.sentence) for s in v.annotations]
            for vid, v in truth.items() if v.subset in names}


def jittered(truth: Truth, spread: float, seed: int = 0, subset: str = "testing") -> Predictions:
    rng = np.random.default_rng(seed)
    found: Predictions = {}
    for vid, v in truth.items():
        if v.subset == subset:
            found[vid] = []
            for s in v.annotations:
                a, b = np.sort(np.clip(rng.normal((s.start, s.end), spread), 0, v.duration))
                found[vid].append(replace(s, start=a, end=b, score=float(rng.random()), query=s.sentence))
    return found


def asked(seed: int = 0, count: int = 8) -> list[Moments]:
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        start = 2.0 * rng.integers(0, 60)
        clips = np.arange(int(start // 2), int(start // 2) + 5)
        rows.append(Moments(f"{seed}{i}", f"v{seed}_{i}", f"query {i}", (Segment(start, start + 10),), 150.0,
                            rng.integers(2, 5, (5, 3)).astype(float), clips))
    return rows


# ---------------------------------------------------------------------------------------------- what is scored


def test_perfect_predictions_reach_the_ceiling_and_none_score_nothing(tmp_path):
    truth = world()
    result = evaluate("detection", truth, perfect(truth, "testing"))
    assert result.figures["average mAP"] == result.ceiling["average mAP"] == 100
    assert 0 < result.floor["average mAP"] < 50
    assert result.missing == ()
    write_truth(tmp_path / "truth.json", truth)
    write_predictions(tmp_path / "predictions.json", perfect(truth, "testing"))
    from_files = evaluate("detection", tmp_path / "truth.json", str(tmp_path / "predictions.json"))
    assert from_files.to_json() == result.to_json()
    assert evaluate("detection", truth, {v: [] for v in perfect(truth, "testing")}).figures["average mAP"] == 0


def test_which_videos_are_scored():
    truth = world()

    def seen(found, **options):
        result = evaluate("detection", truth, found, **options)
        return result.figures["average mAP"], len(result.missing), result.floor is not None

    assert seen(perfect(truth, "testing")) == (100, 0, True)
    assert seen(perfect(truth, "testing", "validation")) == (100, 0, True)
    # training is left out where there is another split
    assert seen(perfect(truth, "training", "testing")) == (100, 0, True)
    # training alone: all are scored, and nothing is left to learn a floor from
    score, missing, floor = seen(perfect(truth, "training"))
    assert 0 < score < 100
    assert (missing, floor) == (11, False)
    # by name
    assert seen(perfect(truth, "testing"), subsets=("validation",)) == (0, 5, True)
    assert seen(perfect(truth, "training"), subsets=("training",)) == (100, 0, False)
    assert seen(perfect(truth, "testing"), training=("validation",))[2] is True
    assert seen(perfect(truth, "testing"), training=("elsewhere",))[2] is False
    with pytest.raises(DataError, match="subset 'tset'; the truth has: testing, training, validation"):
        evaluate("detection", truth, perfect(truth, "testing"), subsets=("tset",))


def test_predictions_of_other_splits_change_nothing_but_unknown_videos_do():
    truth = world()
    found = jittered(truth, 2)
    alone = evaluate("detection", truth, found)
    wrong = {vid: [Segment(0, 1, "run", 1.0)] for vid, v in truth.items() if v.subset == "training"}
    assert evaluate("detection", truth, found | wrong).figures == alone.figures
    strange = evaluate("detection", truth, found | {"nobody": [Segment(0, 1, "run", 1.0)]})
    assert strange.figures["average mAP"] < alone.figures["average mAP"]
    assert any("1 predictions are of videos" in note for note in strange.notes)


def test_videos_meet_with_or_without_activitynets_prefix():
    truth = world()
    found = perfect(truth, "testing")
    named = {f"v_{vid}": v for vid, v in truth.items()}
    assert evaluate("detection", named, found).figures["average mAP"] == 100
    assert evaluate("detection", truth, {f"v_{vid}": row for vid, row in found.items()}).figures["average mAP"] == 100


def test_training_truth_may_be_a_file_of_its_own(tmp_path):
    truth = world()
    testing = {v: t for v, t in truth.items() if t.subset == "testing"}
    training = {v: replace(t, subset="whatever") for v, t in truth.items() if t.subset == "training"}
    write_truth(tmp_path / "train.json", training)
    alone = evaluate("detection", testing, perfect(truth, "testing"))
    assert alone.floor is None
    assert "--train" in alone.floor_of
    given = evaluate("detection", testing, perfect(truth, "testing"), train=tmp_path / "train.json")
    assert given.floor == evaluate("detection", truth, perfect(truth, "testing")).floor
    # videos that are scored teach nothing, whatever file they come in
    assert evaluate("detection", testing, perfect(truth, "testing"), train=testing).floor is None


# ---------------------------------------------------------------------------------------------- floors


def test_it_is_said_where_sentences_make_no_difference():
    truth = world(counts=(("training", 12), ("testing", 20)))
    first = {vid: [Segment(v.annotations[0].start, v.annotations[0].end, score=1.0, query=s.sentence)
                   for s in v.annotations] for vid, v in truth.items() if v.subset == "testing"}
    note, = evaluate("grounding", truth, first).notes
    assert note.startswith("Sentences may not be read: where a video has several moments, the first answer is the ")
    assert "50% of 40 queries that meet any, and a draw would be in 50%." in note
    assert evaluate("grounding", truth, perfect(truth, "testing")).notes == ()


@pytest.mark.parametrize("task", ["detection", "proposals", "grounding", "frames", "captions", "episodes"])
def test_test_truth_never_moves_the_floors_predictor(task):
    """The floor's choice is of training alone: with other test truth the same predictor is taken."""
    truth = world()
    moved = {vid: v if v.subset == "training" else replace(v, annotations=tuple(
        replace(s, start=0.0, end=v.duration) for s in v.annotations)) for vid, v in truth.items()}
    options = {"fps": 2.0} if task == "frames" else {"meteor": False} if task == "captions" else {}
    first = evaluate(task, truth, perfect(truth, "testing"), **options)
    second = evaluate(task, moved, perfect(moved, "testing"), **options)
    assert first.floor_of == second.floor_of
    assert "training truth" in first.floor_of


def test_every_figure_has_the_floor_that_is_best_at_it_on_training():
    """The whole video has the higher mean tIoU, five stretches the higher recall of five."""
    rng = np.random.default_rng(0)
    truth = {}
    for i in range(120):
        start, end = np.sort(rng.uniform(0, 100, 2))
        truth[str(i)] = VideoTruth(100, (Segment(start, min(100, end + 30), sentence=f"sentence {i}"),),
                                   "training" if i < 80 else "testing")
    found = {vid: [] for vid, v in truth.items() if v.subset == "testing"}
    both = evaluate("grounding", truth, found)
    alone = {name: evaluate("grounding", {v: t for v, t in truth.items() if t.subset == "testing"}, found).floor[name]
             for name in ("R@5,IoU=0.7", "mIoU")}
    assert both.floor["R@5,IoU=0.7"] > alone["R@5,IoU=0.7"]
    assert " or " in both.floor_of or both.floor["mIoU"] != alone["mIoU"]


def test_of_two_floors_the_better_on_training_is_taken():
    def games(count, subset):
        rng = np.random.default_rng(count)
        return {f"{subset}{i}": VideoTruth(1000, tuple(Segment(t, t + 5, "serve") for t in rng.uniform(0, 990, 30)),
                                           subset) for i in range(count)}

    short = games(20, "training") | games(5, "testing")
    assert "usual length" in evaluate("detection", short, perfect(short, "testing"), tious=(0.3,)).floor_of
    whole = {f"{s}{i}": VideoTruth(9.0 * 4**i, (Segment(0, 9.0 * 4**i, "show"),), s)
             for s in ("training", "testing") for i in range(4)}
    assert "commonest stretches" in evaluate("detection", whole, perfect(whole, "testing")).floor_of


def test_the_names_of_tasks_are_the_same_everywhere():
    assert set(get_args(TaskName)) == set(METRICS) == set(TASKS)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_task_has_figures_floor_and_ceiling(task):
    truth = world()
    options: dict = {"fps": 2.0} if task == "frames" else {"meteor": False} if task == "captions" else {}
    if task == "highlights":
        rows = asked(1)
        result = evaluate(task, rows, oracle_highlights(rows), train=asked(2))
    else:
        result = evaluate(task, truth, jittered(truth, 3), **options)
    assert result.task == task
    assert set(result.floor) == set(result.ceiling) == set(result.figures)
    main = "MR-full-mAP" if task == "highlights" else next(iter(result.figures))
    assert result.floor[main] < result.ceiling[main]
    told = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert told["figures"][main]["value"] == result.figures[main]
    assert told["videos"] == len(result.score.videos)


def test_captions_at_the_truths_segments_have_a_floor_at_the_same_segments():
    truth = world()
    said = {vid: [replace(s, start=float(np.float32(s.start)), end=float(np.float32(s.end))) for s in row]
            for vid, row in perfect(truth, "testing").items()}
    given = evaluate("captions", truth, said, meteor=False)
    assert "at the truth's segments" in given.floor_of
    assert given.floor["recall"] == 100
    learnt = evaluate("captions", truth, jittered(truth, 1), meteor=False)
    assert "cover training best" in learnt.floor_of
    assert learnt.floor["recall"] < 100


def test_worth_can_be_left_out():
    truth = world()
    result = evaluate("detection", truth, jittered(truth, 3), worth=False)
    assert result.floor is result.ceiling is None
    assert result.figures == evaluate("detection", truth, jittered(truth, 3)).figures


# ---------------------------------------------------------------------------------------------- zero-shot splits


SPLITS = [["jump"], ["run", "swim"]]


def of_split(found: Predictions, names: list[str]) -> Predictions:
    return {vid: [s for s in row if s.label in names] for vid, row in found.items()}


def test_ten_splits_are_ten_models_and_ten_files(tmp_path):
    """The whole protocol, with two: the figures are the mean of the splits', each scored on its own."""
    truth = world(counts=(("training", 20), ("testing", 12)))
    answers = [of_split(jittered(truth, spread), names) for spread, names in zip((1, 4), SPLITS)]
    files = [tmp_path / f"{n}.json" for n in range(2)]
    for file, found in zip(files, answers):
        write_predictions(file, found)
    result = evaluate("detection", truth, files, splits=SPLITS, bootstrap=40)
    alone = []
    for found, names in zip(answers, SPLITS):
        asked = {vid: replace(v, annotations=tuple(s for s in v.annotations if s.label in names))
                 for vid, v in truth.items()}
        asked = {vid: v for vid, v in asked.items() if v.annotations and v.subset == "testing"}
        alone.append(evaluate("detection", asked, {vid: found[vid] for vid in asked}).figures)
    first, second = (row["average mAP"] for row in alone)
    assert first != second
    assert result.figures == pytest.approx({name: (alone[0][name] + alone[1][name]) / 2 for name in alone[0]})
    assert result.spread["average mAP"] == pytest.approx(abs(first - second) / 2 ** 0.5)
    low, high = result.interval["average mAP"]
    assert low < result.figures["average mAP"] < high
    assert (result.missing, result.notes, result.ceiling["average mAP"]) == ((), (), 100)
    told = json.loads(json.dumps(result.to_json(), allow_nan=False))["figures"]["average mAP"]
    assert told["spread"] == result.spread["average mAP"]
    # by files or by what they hold, and one file that answers both splits
    assert evaluate("detection", truth, answers, splits=SPLITS).figures == result.figures
    merged = {vid: [s for found in answers for s in found[vid]] for vid in answers[0]}
    assert evaluate("detection", truth, merged, splits=SPLITS).figures == pytest.approx(result.figures)
    assert compare("detection", truth, answers, answers[::-1], splits=SPLITS, bootstrap=20)["average mAP"].second == 0


def test_the_floor_of_unseen_classes_does_not_know_their_training_videos():
    truth = world(counts=(("training", 20), ("testing", 12)))
    found = perfect(truth, "testing")
    before = evaluate("detection", truth, found, splits=SPLITS)
    assert "under every unseen class, learnt from training truth" in before.floor_of
    assert 0 < before.floor["average mAP"] < 50

    def moved(*names):
        return {vid: v if v.subset == "testing" else replace(v, annotations=tuple(
            replace(s, start=0.0, end=1.0) if s.label in names else s for s in v.annotations))
            for vid, v in truth.items()}

    assert evaluate("detection", moved("jump"), found, splits=[["jump"]]).floor == evaluate(
        "detection", truth, found, splits=[["jump"]]).floor
    assert evaluate("detection", moved("run", "swim"), found, splits=SPLITS).floor != before.floor
    # of training without a seen class nothing can be learnt
    nothing = evaluate("detection", truth, found, splits=[["jump", "run", "swim"]])
    assert nothing.floor is None
    assert "labelled segments of the seen classes" in nothing.floor_of


def test_what_is_strange_in_the_answers_to_splits_is_said():
    truth = world(counts=(("testing", 12),))
    found = perfect(truth, "testing")
    swapped = evaluate("detection", truth, [of_split(found, names) for names in SPLITS[::-1]], splits=SPLITS)
    count = sum(map(len, found.values()))
    assert f"{count} predictions carry a label that is no unseen class of their split (" in swapped.notes[0]
    half = evaluate("detection", truth, [of_split(found, ["jump"]), {}], splits=SPLITS, worth=False)
    assert half.notes == ("No video that is scored is predicted in split 1; check its file.",)
    assert set(half.missing) == {vid for vid, v in truth.items() if {s.label for s in v.annotations} != {"jump"}}
    absent = evaluate("detection", truth, found, splits=[[*names, "fly"] for names in SPLITS], worth=False)
    assert absent.notes == (
        "Unseen classes that the truth does not show take no part: 1 of split 0, 1 of split 1.",)
    with pytest.raises(CallError, match="2 splits and 3 sets of predictions"):
        evaluate("detection", truth, [found] * 3, splits=SPLITS)
    for task, options in (("detection", {}), ("proposals", {}), ("episodes", {})):
        with pytest.raises(CallError, match=f"'{task}' takes one set of predictions here, and 2 were given"):
            evaluate(task, truth, [found] * 2, **options)


# ---------------------------------------------------------------------------------------------- how sure


def test_an_interval_holds_its_figure_and_repeats():
    truth = world(counts=(("training", 5), ("testing", 40)))
    result = evaluate("detection", truth, jittered(truth, 3), bootstrap=100, seed=3)
    low, high = result.interval["average mAP"]
    assert low < result.figures["average mAP"] < high
    assert result.interval == evaluate("detection", truth, jittered(truth, 3), bootstrap=100, seed=3).interval
    told = result.to_json()["figures"]["average mAP"]
    assert (told["low"], told["high"]) == (low, high)


def test_a_better_system_is_called_better_and_the_same_is_not():
    truth = world(counts=(("testing", 60),))
    good, poor = jittered(truth, 0.5), jittered(truth, 5, seed=1)
    found = compare("detection", truth, poor, good, bootstrap=100)["average mAP"]
    assert found.real
    assert found.low > 0
    assert found.second - found.first > 10
    same = compare("detection", truth, good, good, bootstrap=100)["average mAP"]
    assert not same.real


# ---------------------------------------------------------------------------------------------- calls and files


def test_an_option_that_a_task_does_not_have_is_refused():
    truth = world()
    with pytest.raises(CallError, match="unknown task 'detecton'; did you mean 'detection'"):
        evaluate("detecton", truth, {})
    with pytest.raises(CallError, match="task 'proposals' does not take"):
        evaluate("proposals", truth, perfect(truth, "testing"), strict=True)
    with pytest.raises(CallError, match="unknown style"):
        evaluate("detection", truth, perfect(truth, "testing"), style="voc")
    with pytest.raises(CallError, match="unknown buckets"):
        evaluate("diagnosis", truth, perfect(truth, "testing"), buckets="charades")


def test_truth_and_predictions_may_be_in_any_format(tmp_path):
    truth = {v: t for v, t in world().items() if t.subset == "testing"}
    expected = evaluate("detection", truth, jittered(truth, 2)).figures
    FORMATS["csv"].write(tmp_path / "truth.csv", truth)
    said = {vid: replace(truth[vid], annotations=tuple(row)) for vid, row in jittered(truth, 2).items()}
    FORMATS["jsonl"].write(tmp_path / "found.jsonl", said)
    assert evaluate("detection", tmp_path / "truth.csv", tmp_path / "found.jsonl").figures == pytest.approx(expected)


def test_swapped_files_are_noticed(tmp_path):
    truth = world()
    write_predictions(tmp_path / "p.json", perfect(truth, "testing"))
    with pytest.raises(DataError, match="swap"):
        truth_of(tmp_path / "p.json")
    write_truth(tmp_path / "t.json", truth)
    assert len(predictions_of(tmp_path / "t.json")) == len(truth)  # truth scored as predictions is an oracle


def test_episodes_are_drawn_written_and_scored(tmp_path):
    rng = np.random.default_rng(0)
    truth = {f"{s}{k}{i}": VideoTruth(50, (Segment(*np.sort(rng.uniform(0, 50, 2)), f"class {k}"),), s)
             for s in ("training", "validation") for k in range(4) for i in range(6)}
    write_truth(tmp_path / "truth.json", truth)
    (tmp_path / "novel.txt").write_text("".join(f"class {k}\n" for k in range(4)))
    drawn = draw_episodes(tmp_path / "truth.json", tmp_path / "novel.txt", tmp_path / "e.json", ways=2, shots=3,
                          draws=4, seed=1)
    assert read_episodes(tmp_path / "e.json") == drawn
    answers = [{vid: [replace(s, score=1.0) for s in truth[vid].annotations] for vid in e.queries} for e in drawn]
    result = evaluate("episodes", truth, answers, subsets=("validation",), draws=drawn)
    assert result.figures["average mAP"] == result.ceiling["average mAP"] == 100
    assert 0 < result.floor["average mAP"] < 60  # it has to say both classes of every video
    with pytest.raises(DataError, match="no video is left to ask"):
        draw_episodes({v: t for v, t in truth.items() if t.subset == "training"}, ["class 1"], tmp_path / "f.json")


def test_the_diagnosis_is_of_the_chosen_split():
    truth = world(counts=(("training", 5), ("testing", 30)))
    result = evaluate("diagnosis", truth, jittered(truth, 2) | perfect(truth, "training"))
    assert result.floor["mAP_N"] < result.figures["mAP_N"] < result.ceiling["mAP_N"] == 100
    found = result.score
    assert set(found.videos) == {v for v, t in truth.items() if t.subset == "testing"}
    assert found.to_json()


# ---------------------------------------------------------------------------------------------- official figures


def test_the_golden_file_through_the_front_door(tmp_path):
    import gzip

    data = shared("golden")
    golden = json.loads((data / "golden.json").read_text())
    truth = FORMATS["tsp"].parse(
        shared("annotations/tsp/activitynet/activitynet_v1-3_valid_tsp_groundtruth.csv"), Reading())
    (tmp_path / "p.json").write_bytes(gzip.decompress((data / "synthetic_detection_seed0.json.gz").read_bytes()))
    result = evaluate("detection", truth, tmp_path / "p.json", bootstrap=100)
    assert result.figures["average mAP"] / 100 == pytest.approx(golden["detection"]["average_mAP"], abs=1e-9)
    low, high = result.interval["average mAP"]
    assert low < result.figures["average mAP"] < high
    # three truths have zero length: nothing of length can match them, but the oracle's zero length does
    assert result.ceiling["average mAP"] == 100
    areas = evaluate("proposals", truth, tmp_path / "p.json").figures
    assert areas["AUC"] == pytest.approx(golden["proposals"]["max_avg_nr_proposals_100"]["AUC_pct"], abs=1e-7)
