"""Own data in one command: what is decided, what is said about it, and trainings that begin with a table."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_encoder, shared

from cuemark import own_data, video
from cuemark.clips import Sampling
from cuemark.conversion import convert, truth_of
from cuemark.errors import CallError, CuemarkError, DataError, ModelError, VideoError
from cuemark.own_data import FEW, UPDATES, WEIGHED, Own, english, hold_out, own_localizer, own_recipe
from cuemark.recipe import header, load_recipe, whole
from cuemark.segments import Segment, Truth, VideoTruth, labels_of, read_truth, write_truth
from cuemark.training import ENCODER_FILE, pretrain

CUT = ("encoder.network.width=4", "encoder.clip.short_side=20", "encoder.clip.crop=16", "optim.batch=4",
       "optim.steps=2", "optim.precision=fp32", "workers=0")
"""A network and a number of updates for tests."""
SECONDS = 6.0
"""Of every video in the folder."""


def weighed() -> dict[str, object]:
    """What own data takes over from the world's CLAP."""
    return {key: value for key, value in load_recipe("world_clap").options.items() if key in WEIGHED}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty grey videos, v0 to v19."""
    folder = tmp_path_factory.mktemp("own") / "videos"
    video.write(folder / "v0.mp4", (np.full((32, 48, 3), 5 * i % 250, np.uint8) for i in range(60)), fps=10)
    for i in range(1, 20):
        (folder / f"v{i}.mp4").write_bytes((folder / "v0.mp4").read_bytes())
    return folder


def table(path: Path, *rows: tuple[Any, ...], columns: str = "video,start,end,label") -> Path:
    """A CSV file of annotations."""
    path.write_text("\n".join([columns, *(",".join(map(str, row)) for row in rows)]) + "\n", encoding="utf-8")
    return path


def plenty(count: int = 10, classes: tuple[str, ...] = ("run", "jump")) -> list[tuple[str, float, float, str]]:
    """An action of three seconds in each of some videos, class after class."""
    return [(f"v{i}", 1.0, 4.0, classes[i % len(classes)]) for i in range(count)]


def said(lines: tuple[str, ...], part: str) -> str:
    """The one line that has this in it."""
    (line,) = (line for line in lines if part in line)
    return line


def sentences(own: Own) -> None:
    for line in own.notes + own.warnings:
        assert line.endswith("."), line
        assert "\n" not in line
        assert not line.endswith("..")


# ---------------------------------------------------------------------------------------------- decisions


def test_a_table_becomes_a_recipe_that_its_file_gives_again(folder: Path, tmp_path: Path) -> None:
    labels = table(tmp_path / "labels.csv", *plenty(12))
    own = own_recipe(folder, labels, "tac", out=tmp_path / "run", seed=3)
    sentences(own)
    assert own.warnings == ()
    assert own.file == tmp_path / "run" / "recipe.toml"
    assert load_recipe(own.file) == own.recipe
    assert (own.recipe.system, own.recipe.seed) == ("tac", 3)
    assert own.recipe.encoder.start is None
    assert own.recipe.encoder == load_recipe("world_tac").encoder
    said(own.notes, "is in format csv: 12 videos, 12 annotations.")
    said(own.notes, "the 2 classes are 'jump', 'run'.")
    said(own.notes, "starts from nothing")
    assert not any("stretches of background" in line for line in own.notes)  # it never sees any
    head = header(own.file)
    assert head.commands == (f"cuemark pretrain {own.file} --out {tmp_path / 'run'}",)
    assert "classes are 'jump', 'run'" in " ".join(head.lines)
    assert load_recipe(table(tmp_path / "copy.toml", columns=whole(own.file))) == own.recipe
    truth = read_truth(own.recipe.data.truth)
    assert {round(v.duration, 3) for v in truth.values()} == {SECONDS}  # the table has none
    again = own_recipe(folder, labels, "tac", out=tmp_path / "run", seed=3)
    assert again == own


def test_the_schedule_has_enough_updates_and_says_so(folder: Path, tmp_path: Path) -> None:
    labels = table(tmp_path / "labels.csv", *plenty(20))
    own = own_recipe(folder, labels, "tac", out=tmp_path)
    # 18 videos of one action each, 5 clips each, batches of 32
    epochs = UPDATES // (18 * 5 // 32)
    assert own.recipe.optim.epochs == epochs
    assert own.recipe.optim.steps is None
    assert own.recipe.validate_every == UPDATES / 8
    assert own.recipe.optim.lr == load_recipe("world_tac").optim.lr
    said(own.notes, f"an epoch has 90 clips of 1.07 s in 2 batches, and the training {UPDATES} updates.")
    many = own_recipe(folder, labels, "tac", out=tmp_path, changes=["encoder.sampling.clips_per_region=500"])
    assert many.recipe.optim.epochs == 8
    assert many.recipe.validate_every is None
    asked = own_recipe(folder, labels, "tac", out=tmp_path, changes=["optim.steps=7", "optim.batch=9"])
    assert asked.recipe.optim.steps == 7
    said(asked.notes, "in 10 batches, and the training 7 updates.")
    assert load_recipe(asked.file) == asked.recipe


def test_an_encoder_brings_the_papers_rates_and_its_own_look(folder: Path, tmp_path: Path) -> None:
    make_encoder(0).save(tmp_path / "start.safetensors")
    labels = table(tmp_path / "labels.csv", *plenty())
    for start in (str(tmp_path / "start.safetensors"), "tac-kinetics-r2plus1d_18"):  # the second is not fetched for it
        for objective in ("tac", "tsp"):
            own = own_recipe(folder, labels, objective, out=tmp_path, encoder=start)
            shipped = load_recipe(f"activitynet_{objective}_r2plus1d_18")
            assert own.recipe.encoder.start == start
            assert own.recipe.optim.lr == 1e-4
            assert own.recipe.optim.lr_heads == shipped.optim.lr_heads
            assert own.recipe.optim.decay_at == shipped.optim.decay_at
            said(own.notes, f"starts from '{start}'")
    with pytest.raises(ModelError, match=r"nowhere\.safetensors"):
        own_recipe(folder, labels, "tac", out=tmp_path, encoder=tmp_path / "nowhere.safetensors")


def test_tsp_says_what_it_lacks(folder: Path, tmp_path: Path) -> None:
    labels = table(tmp_path / "labels.csv", *plenty())
    own = own_recipe(folder, labels, "tsp", out=tmp_path)
    weighed = load_recipe("world_tsp").options
    assert own.recipe.options == {"global_feature": "none", **weighed}
    said(own.notes, "cuemark gvf")
    said(own.notes, "from 9 actions and from 9 stretches of background beside them")
    given = own_recipe(folder, labels, "tsp", out=tmp_path, features="gvf.h5")
    assert given.recipe.data.features == "gvf.h5"
    assert given.recipe.options == weighed


# ------------------------------------------------------------------------------------------- captions


def test_sentences_become_captions(folder: Path, tmp_path: Path) -> None:
    rows = [(*row, f"someone does number {i}") for i, row in enumerate(plenty())]
    labels = table(tmp_path / "labels.csv", *rows, ("v3", 4.5, 6.0, "", "and rests"),
                   columns="video,start,end,label,sentence")
    own = own_recipe(folder, labels, "clap", out=tmp_path / "run", text="bert")
    sentences(own)
    assert own.recipe.options == weighed()
    assert own.recipe.encoder.text == "bert"
    assert own.recipe.encoder.sampling.p_caption == 0.5
    said(own.notes, "11 sentences of 10 videos")
    assert own.recipe.data.captions is not None
    read = truth_of(own.recipe.data.captions)
    assert [s.sentence for s in read["v3"].annotations] == ["someone does number 3", "and rests"]
    assert labels_of(read_truth(own.recipe.data.truth)) == ["jump", "run"]
    assert own_recipe(folder, labels, "tac", out=tmp_path / "tac").recipe.data.captions is None
    assert not (tmp_path / "tac" / "captions.json").exists()


def test_captions_of_a_file_of_their_own(folder: Path, tmp_path: Path) -> None:
    labels = table(tmp_path / "labels.csv", *plenty())
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps({f"v_v{i}": {"duration": 6, "timestamps": [[0, 5]], "sentences": ["They run."]}
                                    for i in (1, 2, 77)}))
    own = own_recipe(folder, labels, "clap", out=tmp_path / "run", captions=captions, text="bert")
    said(own.notes, "2 sentences of 2 videos")
    assert set(truth_of(str(own.recipe.data.captions))) == {"v1", "v2"}
    none = own_recipe(folder, labels, "clap", out=tmp_path / "none", text="bert")
    assert none.recipe.options == {"captions": False, **weighed()}
    assert none.recipe.data.captions is None
    said(none.notes, "no sentences: every clip carries its prompt")
    captions.write_text(json.dumps({"v_other": {"duration": 6, "timestamps": [[0, 5]], "sentences": ["They run."]}}))
    with pytest.raises(DataError, match=r"no sentence for any of the 10 videos .* it is about 'other'\.$"):
        own_recipe(folder, labels, "clap", out=tmp_path / "run", captions=captions)


def test_sentences_alone_serve_clap_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    rows = [(f"v{i}", 1, 4, f"The person walks up to number {i}.") for i in range(10)]
    described = table(tmp_path / "described.csv", *rows, columns="video,start,end,sentence")
    own = own_recipe(folder, described, "clap", out=tmp_path / "run", text="bert")
    sentences(own)
    assert own.recipe.options == {"classify": False, **weighed()}
    assert own.recipe.encoder.sampling.p_caption == 1.0
    assert labels_of(read_truth(own.recipe.data.truth)) == ["event"]
    said(own.notes, "every described stretch is foreground, of one class 'event'")
    assert own.warnings == ()  # that there is one class is our doing
    for objective in ("tac", "tsp"):
        with pytest.raises(DataError, match=rf"has sentences and no labels, and {objective} learns labels; use"):
            own_recipe(folder, described, objective, out=tmp_path / "run")
    bare = table(tmp_path / "bare.csv", ("v0", 1, 4, ""))
    with pytest.raises(DataError, match="neither labels nor sentences"):
        own_recipe(folder, bare, "clap", out=tmp_path / "run")


def test_the_text_encoder_is_the_one_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Path:
        raise ModelError("not installed.")

    monkeypatch.setattr(own_data.texts, "minilm", lambda: Path())
    assert own_data._reader() == "minilm"
    monkeypatch.setattr(own_data.texts, "minilm", absent)
    assert own_data._reader() == "bert"


# ---------------------------------------------------------------------------------------------- subsets


def test_named_subsets_are_used_and_others_left_aside(folder: Path, tmp_path: Path) -> None:
    parts = ["train"] * 6 + ["val"] * 2 + ["test"] * 2 + ["spare"]
    rows = [(*row, part) for row, part in zip(plenty(11), parts, strict=True)]
    labels = table(tmp_path / "labels.csv", *rows, columns="video,start,end,label,split")
    own = own_recipe(folder, labels, "tac", out=tmp_path)
    truth = read_truth(own.recipe.data.truth)
    assert {vid: v.subset for vid, v in truth.items()} == {
        f"v{i}": "training" if i < 6 else "validation" for i in range(8)}
    assert (own.recipe.data.train, own.recipe.data.validate) == (("training",), ("validation",))
    said(own.notes, "2 videos of the subset 'testing' are left aside.")
    said(own.notes, "1 video of the subset 'spare' is left aside.")
    said(own.notes, "6 videos train and 2 validate")

    # validation without an action as long as a clip chooses nothing
    short = [(vid, a, a + 0.5 if part == "val" else b, label, part) for vid, a, b, label, part in rows]
    labels = table(tmp_path / "short.csv", *short, columns="video,start,end,label,split")
    own = own_recipe(folder, labels, "tac", out=tmp_path)
    assert own.recipe.data.validate == ()
    assert set(read_truth(own.recipe.data.truth)) == {f"v{i}" for i in range(6)}
    said(own.notes, "no video of the subset 'validation' can be used")


@pytest.mark.parametrize(("parts", "used"), [
    (["validation"] * 8 + ["testing"] * 2, 8),  # THUMOS14
    (["monday"] * 5 + ["tuesday"] * 5, 10),
    (["train"] * 8 + ["test"] * 2, 8),
])
def test_without_a_validation_subset_some_videos_are_held_out(folder: Path, tmp_path: Path, parts: list[str], used: int
                                                              ) -> None:
    rows = [(*row, part) for row, part in zip(plenty(), parts, strict=True)]
    labels = table(tmp_path / "labels.csv", *rows, columns="video,start,end,label,split")
    own = own_recipe(folder, labels, "tac", out=tmp_path, validation_share=0.25)
    subsets = Counter(v.subset for v in read_truth(own.recipe.data.truth).values())
    assert subsets == {"training": used - round(used / 4), "validation": round(used / 4)}
    said(own.notes, f"2 videos of {used} are held out")


def test_few_videos_or_no_share_hold_nothing_out(folder: Path, tmp_path: Path) -> None:
    four = own_recipe(folder, table(tmp_path / "a.csv", *plenty(4)), "tac", out=tmp_path)
    assert four.recipe.data.validate == ()
    said(four.notes, "4 videos are too few to hold any out")
    none = own_recipe(folder, table(tmp_path / "a.csv", *plenty()), "tac", out=tmp_path, validation_share=0)
    assert none.recipe.data.validate == ()
    said(none.notes, "as was asked")
    alone = table(tmp_path / "a.csv", *plenty(6, tuple("abcdef")))
    own = own_recipe(folder, alone, "tac", out=tmp_path)
    assert own.recipe.data.validate == ()
    said(own.notes, "since each has a class's only examples")
    assert {v.subset for v in read_truth(own.recipe.data.truth).values()} == {"training"}


def test_what_is_held_out_has_its_share_of_each_class() -> None:
    rng = np.random.default_rng(0)
    for seed in range(5):
        often = rng.dirichlet(np.ones(20))
        shown = [rng.choice(20, rng.integers(1, 3), p=often) for _ in range(200)]
        truth = {f"v{i}": VideoTruth(9.0, tuple(Segment(0, 1, f"c{c}") for c in some)) for i, some in enumerate(shown)}
        held = hold_out(truth, 0.2, seed)
        assert held == hold_out(dict(reversed(truth.items())), 0.2, seed)
        assert held != hold_out(truth, 0.2, seed + 1)
        assert len(held) == 40

        def videos(ids: set[str], truth: Truth = truth) -> Counter[str]:
            return Counter(label for vid in ids for label in labels_of({vid: truth[vid]}))

        everyone, mine = videos(set(truth)), videos(held)
        off = sum(abs(mine[c] - 0.2 * n) for c, n in everyone.items())
        chance = [sum(abs(drawn[c] - 0.2 * n) for c, n in everyone.items())
                  for drawn in (videos(set(rng.choice(sorted(truth), 40, replace=False).tolist())) for _ in range(50))]
        assert off <= min(chance)
        assert set(videos(set(truth) - held)) == set(everyone)


# ---------------------------------------------------------------------------------------------- files


def test_videos_without_a_file_or_unreadable_are_left_out_and_counted(folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "videos"
    mine.mkdir()
    for i in range(6):
        (mine / f"v{i}.mp4").write_bytes((folder / "v0.mp4").read_bytes())
    (mine / "v6.mp4").write_bytes(b"no video")
    labels = table(tmp_path / "labels.csv", *plenty())
    own = own_recipe(mine, labels, "tac", out=tmp_path)
    sentences(own)
    assert set(read_truth(own.recipe.data.truth)) == {f"v{i}" for i in range(6)}
    assert said(own.warnings, "3 of 10 annotated videos have no file").endswith("left out: 'v7', 'v8', 'v9'.")
    assert "v6.mp4" in said(own.warnings, "1 video cannot be read and is left out")

    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"^none of the 10 annotated videos has a file in .* such as 'v0\.mp4'\.$"):
        own_recipe(tmp_path / "empty", labels, "tac", out=tmp_path)
    with pytest.raises(DataError, match=r"^none of the 1 annotated videos in .* can be read; .*v6\.mp4"):
        own_recipe(mine, table(tmp_path / "one.csv", ("v6", 1, 4, "run")), "tac", out=tmp_path)
    with pytest.raises(VideoError, match="does not exist"):
        own_recipe(tmp_path / "nowhere", labels, "tac", out=tmp_path)


def test_lengths_are_the_files_and_others_are_named(folder: Path, tmp_path: Path) -> None:
    rows = [(*row, 60 if row[0] == "v2" else 6.01) for row in plenty()]
    labels = table(tmp_path / "labels.csv", *rows, ("v3", 8, 9, "run", 6.01), columns="video,start,end,label,duration")
    own = own_recipe(folder, labels, "tac", out=tmp_path)
    assert {round(v.duration, 3) for v in read_truth(own.recipe.data.truth).values()} == {SECONDS}
    said(own.warnings, "1 video another length than the file has, 'v2';")
    said(own.warnings, "1 video has annotations that begin after the end: 'v3'.")


# ---------------------------------------------------------------------------------------------- warnings


def test_rare_and_uneven_classes_are_named(folder: Path, tmp_path: Path) -> None:
    rare = [f"r{i}" for i in range(7)]
    rows = [("v0", 1.0, 4.0, "often")] * 70 + [("v1", 1.0, 4.0, name) for name in rare] + [("v1", 2, 5, "r3")]
    labels = table(tmp_path / "labels.csv", *rows)
    own = own_recipe(folder, labels, "tac", out=tmp_path)
    assert said(own.warnings, f"7 classes have fewer than {FEW} instances in training").endswith(
        ": 'r0' (1), 'r1' (1), 'r2' (1), 'r4' (1), 'r5' (1) and 2 more.")
    said(own.warnings, "'often' has 70 instances in training and 'r0' 1; encoder.sampling.balance = \"classes\"")
    said(own.warnings, "69 that repeat another")
    even = own_recipe(folder, labels, "tac", out=tmp_path, changes=["encoder.sampling.balance=classes"])
    assert even.recipe.encoder.sampling == Sampling(balance="classes")
    assert not any("balance" in line for line in even.warnings)


def test_classes_of_validation_alone_and_single_ones_are_named(folder: Path, tmp_path: Path) -> None:
    rows = [(*row, "train") for row in plenty(8, ("run",))] + [("v8", 1, 4, "swim", "val")]
    labels = table(tmp_path / "labels.csv", *rows, columns="video,start,end,label,split")
    own = own_recipe(folder, labels, "tac", out=tmp_path)
    said(own.warnings, "1 class is in validation only and cannot be learnt: 'swim'.")
    said(own.warnings, "'run' is the only class")


def test_labels_written_in_two_ways_are_named(folder: Path, tmp_path: Path) -> None:
    labels = table(tmp_path / "labels.csv", *plenty(20, ("Long jump", "long_jump", "run", "runs")))
    own = own_recipe(folder, labels, "tac", out=tmp_path)
    assert said(own.warnings, "differ only in case or spaces").endswith(": 'Long jump' and 'long_jump'.")


def test_what_is_called_background_is_background(folder: Path, tmp_path: Path) -> None:
    rows = [*plenty(), *((f"v{i}", 4.0, 6.0, "No_Action") for i in range(10)), ("v11", 0, 6, "No_Action")]
    own = own_recipe(folder, table(tmp_path / "labels.csv", *rows), "tsp", out=tmp_path)
    said(own.notes, "what is labelled 'No_Action' is background")
    said(own.notes, "the 2 classes are 'jump', 'run'.")
    said(own.notes, "1 video without any action is left out.")
    assert labels_of(read_truth(own.recipe.data.truth)) == ["jump", "run"]


def test_short_actions_overlaps_and_videos_without_background_are_counted(folder: Path, tmp_path: Path) -> None:
    full = [(f"v{i}", 0, 6, "run") for i in range(10, 20)]
    rows = [*plenty(), *full, ("v0", 4.0, 4.5, "jump"), ("v1", 3.0, 4.5, "run"), ("v1", 3.2, 4.5, "run")]
    labels = table(tmp_path / "labels.csv", *rows)
    own = own_recipe(folder, labels, "tsp", out=tmp_path, validation_share=0)
    sentences(own)
    said(own.warnings, "1 of 23 actions in training (4%) is shorter than a clip (1.07 s)")
    said(own.warnings, "2 of 23 actions in training begin before an earlier one of the video has ended")
    assert said(own.warnings, "10 of 20 training videos (50%) have no background of at least 1.07 s").endswith(
        "'v10', 'v11', 'v12', 'v13', 'v14' and 5 more.")
    centred = own_recipe(folder, labels, "tac", out=tmp_path, changes=["encoder.sampling.short=centre"])
    assert not any("shorter than a clip" in line or "background" in line for line in centred.warnings)
    with pytest.raises(DataError, match="as long as one clip"):
        own_recipe(folder, table(tmp_path / "labels.csv", ("v0", 1, 2, "run")), "tac", out=tmp_path)


def test_sparse_annotation_is_told_of_reach(tmp_path: Path) -> None:
    mine = tmp_path / "videos"
    video.write(mine / "v0.mp4", (np.zeros((16, 16, 3), np.uint8) for _ in range(80)), fps=1)
    labels = table(tmp_path / "labels.csv", ("v0", 1, 3, "run"), ("v0", 5, 6.2, "jump"))
    own = own_recipe(mine, labels, "tsp", out=tmp_path)
    said(own.warnings, "actions cover 4.0% of the training videos; where not all was annotated, encoder.sampling.reach")
    reached = own_recipe(mine, labels, "tsp", out=tmp_path, changes=["encoder.sampling.reach=10"])
    assert not any("reach" in line for line in reached.warnings)


def test_what_the_reader_dropped_is_said(folder: Path, tmp_path: Path) -> None:
    own = own_recipe(folder, table(tmp_path / "labels.csv", *plenty(), ("v0", 5, 2, "run")), "tac", out=tmp_path)
    assert "1 dropped" in said(own.warnings, "ends before it starts")
    sentences(own)


# ------------------------------------------------------------------------------------------- languages

SAID = {
    "English": ["A man walks into the room and sits down on a chair.", "The woman cuts the vegetables and puts them in "
                "a pot.", "Two children are playing with a red ball in the garden.", "He takes a knife out of the "
                "drawer and washes it."],
    "German": ["Ein Mann läuft in das Zimmer und setzt sich auf einen Stuhl.", "Die Frau schneidet das Gemüse und legt "
               "es in den Topf.", "Zwei Kinder spielen im Garten mit einem roten Ball.", "Er nimmt ein Messer aus der "
               "Schublade und wäscht es ab."],
    "Spanish": ["Un hombre entra en la habitación y se sienta en una silla.", "La mujer corta las verduras y las pone "
                "en una olla.", "Dos niños juegan con una pelota roja en el jardín.", "Saca un cuchillo del cajón y lo "
                "lava."],
    "Portuguese": ["Um homem entra no quarto e senta-se numa cadeira.", "A mulher corta os legumes e põe-nos numa "
                   "panela.", "Duas crianças brincam com uma bola vermelha no jardim.", "Ele tira uma faca da gaveta e "
                   "lava-a."],
    "Dutch": ["Een man loopt de kamer in en gaat op een stoel zitten.", "De vrouw snijdt de groente en doet ze in "
              "een pan.", "Twee kinderen spelen met een rode bal in de tuin.", "Hij pakt een mes uit de la en wast het "
              "af."],
    "Chinese": ["一个男人走进房间，坐在椅子上。", "女人切菜，然后把菜放进锅里。"],
    "Russian": ["Мужчина входит в комнату и садится на стул."],
}


@pytest.mark.parametrize("language", SAID)
def test_english_is_told_from_other_languages(language: str) -> None:
    assert english(SAID[language]) is (language == "English")
    assert english([s.upper() for s in SAID[language]]) is (language == "English")


def test_what_is_too_short_is_not_judged() -> None:
    assert english([]) is None
    assert english(SAID["English"][:2]) is None
    assert english(["opens door", "closes window"] * 50) is None
    assert english(["öffnet Tür", "schließt Fenster"] * 50) is None
    assert english(["123, 456!"] * 50) is None


@pytest.mark.parametrize("path", [
    "bmt_val_1_no_missings.json", "2d-tan/Charades-STA/charades_sta_test.txt", "2d-tan/TACoS/val.json",
    "didemo/val_data.json", "qvhighlights/highlight_val_release.jsonl"])
def test_real_english_captions_are_english(path: str) -> None:
    truth = truth_of(shared(f"annotations/{path}"), notes=[])
    found = [s.sentence for v in truth.values() for s in v.annotations if s.sentence]
    assert len(found) > 1000
    rng = np.random.default_rng(0)
    assert english(found) is True
    assert all(english(rng.choice(found, 40, replace=False).tolist()) for _ in range(50))


def test_captions_in_another_language_are_warned_of(folder: Path, tmp_path: Path) -> None:
    def own(language: str, text: str) -> Own:
        rows = [(*row, f'"{SAID[language][i % 2]}"') for i, row in enumerate(plenty(12))]
        labels = table(tmp_path / "labels.csv", *rows, columns="video,start,end,label,sentence")
        return own_recipe(folder, labels, "clap", out=tmp_path, text=text)

    assert own("English", "minilm").warnings == ()
    assert own("German", "some/multilingual-model").warnings == ()
    for language in ("German", "Chinese"):
        said(own(language, "minilm").warnings, "do not read like English, which the text encoder 'minilm'")


# ---------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(("objective", "rows", "how", "kind", "match"), [
    ("clep", plenty(), {}, CallError, "unknown objective 'clep'; did you mean 'clap'"),
    ("tac", plenty(), {"validation_share": 0.7}, CallError, r"^validation_share must be a number from 0 to 0\.5"),
    ("tac", plenty(), {"format": "cvs"}, CallError, "unknown format 'cvs'"),
    ("tac", plenty(), {"changes": ["optim.stepz=3"]}, CallError, "unknown setting 'optim.stepz'"),
    ("tac", plenty(), {"changes": ["optim.steps=many"]}, DataError, "optim.steps"),
    ("tac", [("v0", "", "", "")], {}, DataError, "holds no annotation"),
    ("tac", [("v0", 1, 4, "none")], {}, DataError, "neither labels nor sentences"),
    ("tac", plenty(), {"encoder": "tac-kinetiks-r2plus1d_18"}, CallError, "did you mean 'tac-kinetics-r2plus1d_18'"),
])
def test_what_cannot_be_meant_is_one_sentence(folder: Path, tmp_path: Path, objective: str, rows: list[Any],
                                              how: dict[str, Any], kind: type[CuemarkError], match: str) -> None:
    labels = table(tmp_path / "labels.csv", *rows)
    with pytest.raises(kind, match=match) as raised:
        own_recipe(folder, labels, objective, out=tmp_path / "run", **how)
    assert str(raised.value).endswith(".")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_files_that_are_no_training_data_are_refused(folder: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"results": {"v0": [{"segment": [0, 3], "label": "run", "score": 0.5}]}}))
    with pytest.raises(DataError, match=r"holds predictions .*; name the annotations"):
        own_recipe(folder, results, "tac", out=tmp_path)
    write_truth(tmp_path / "test.json", {"v0": VideoTruth(6.0, (Segment(0, 3, "run"),), "testing")})
    with pytest.raises(DataError, match="subset 'testing'"):
        own_recipe(folder, tmp_path / "test.json", "tac", out=tmp_path)
    parts = [(*plenty()[0], "val"), ("away", 1, 4, "run", "train")]
    labels = table(tmp_path / "labels.csv", *parts, columns="video,start,end,label,split")
    with pytest.raises(DataError, match="no video of the subset 'training' has a file"):
        own_recipe(folder, labels, "tac", out=tmp_path)


# ---------------------------------------------------------------------------------------------- to the end


@pytest.mark.parametrize(("objective", "to"), [("tac", "via"), ("tsp", "csv"), ("clap", "csv"), ("clap", "captions")])
def test_the_worlds_videos_and_a_file_of_some_tool_become_an_encoder(tiny_world, tiny_text, tmp_path, objective, to):
    mine = {vid: v for vid, v in tiny_world.truth.items() if v.subset in ("training", "validation")}
    if to == "captions":  # sentences alone
        mine = {vid: VideoTruth(v.duration, tuple(Segment(s.start, s.end, sentence=s.sentence) for s in v.annotations))
                for vid, v in mine.items()}
    write_truth(tmp_path / "world.json", mine)
    path = tmp_path / {"via": "project.json", "csv": "table.csv", "captions": "captions.json"}[to]
    convert(tmp_path / "world.json", path, {"captions": "activitynet-captions"}.get(to, to))
    own = own_recipe(tiny_world.folder / "videos", path, objective, out=tmp_path / "run",
                     text=str(tiny_text) if objective == "clap" else None,
                     changes=[*CUT, "encoder.sampling.short=centre"])
    sentences(own)
    used = read_truth(own.recipe.data.truth)
    assert set(used) == set(mine)
    assert all(abs(used[vid].duration - mine[vid].duration) < 0.05 for vid in mine)
    encoder, result = pretrain(own.recipe, tmp_path / "run")
    assert result.steps == 2
    assert encoder.classes == (() if to == "captions" else tuple(labels_of(
        {vid: v for vid, v in used.items() if v.subset == "training"})))
    assert result.best is not None
    assert set(result.best) >= {"tac": {"class"}, "tsp": {"class", "region"}}.get(
        objective, {"contrast"} if to == "captions" else {"class", "region"})
    assert (tmp_path / "run" / ENCODER_FILE).exists()
    again = own_recipe(tiny_world.folder / "videos", path, objective, out=tmp_path / "run",
                       text=str(tiny_text) if objective == "clap" else None,
                       changes=[*CUT, "encoder.sampling.short=centre"])
    assert pretrain(load_recipe(again.file), tmp_path / "run")[1].steps == 2  # the same run: nothing is left to do


def test_frames_need_a_rate_and_the_command_takes_it(folder: Path, tmp_path: Path, cuemark) -> None:
    (tmp_path / "labels").mkdir()
    for i in range(6):
        (tmp_path / "labels" / f"v{i}.txt").write_text("\n".join(["run"] * 30 + ["background"] * 30) + "\n")
    words = ["pretrain", "--videos", folder, "--annotations", tmp_path / "labels", "--objective", "tac", "--out",
             tmp_path / "run", *(w for change in CUT for w in ("--set", change))]
    ended = cuemark(*words)
    assert ended.status == 1
    assert "--fps" in ended.err
    ended = cuemark(*words, "--fps", 10)
    assert ended.status == 0, ended.err
    truth = read_truth(tmp_path / "run" / "truth.json")
    assert truth["v0"].annotations[0].end == pytest.approx(3.0)


def test_a_small_network_from_nothing_weighs_as_the_worlds(folder: Path, tmp_path: Path) -> None:
    labels = table(tmp_path / "labels.csv", *plenty(12))
    own = own_recipe(folder, labels, "tsp", out=tmp_path / "run")
    assert own.recipe.options["weight_class"] == load_recipe("world_tsp").options["weight_class"]
    said(own.notes, "weight_class = 0.2")
    make_encoder(0).save(tmp_path / "start.safetensors")
    own = own_recipe(folder, labels, "tsp", out=tmp_path / "other", encoder=tmp_path / "start.safetensors")
    assert "weight_class" not in own.recipe.options


def test_the_seed_of_the_run_holds_out_too(folder: Path, tmp_path: Path) -> None:
    labels = table(tmp_path / "labels.csv", *plenty(20))
    held = set()
    for seed in range(4):
        own = own_recipe(folder, labels, "tac", out=tmp_path / str(seed), changes=[f"seed={seed}"])
        said(own.notes, f"(seed {seed})")
        held.add(tuple(v for v, t in read_truth(tmp_path / str(seed) / "truth.json").items()
                       if t.subset == "validation"))
    assert len(held) > 1


# ---------------------------------------------------------------------------------------------- localizers


TOY_GTAD = ("options.positions=8", "options.durations=8", "options.h1d=8", "options.h2d=8", "options.h3d=8",
            "options.width=8", "options.groups=4", "options.inner_bins=2", "options.context_bins=2")


def test_a_localizer_learns_from_features_and_a_table(tiny_features, tmp_path: Path, cuemark) -> None:
    ids = list(tiny_features)
    labels = table(tmp_path / "labels.csv", *((vid, 0.2, 1.0, ("run", "jump")[i % 2]) for i, vid in enumerate(ids)),
                   ("elsewhere", 0, 1, "run"))
    words = [w for change in (*TOY_GTAD, "optim.steps=2") for w in ("--set", change)]
    ended = cuemark("train", "gtad", "--features", tiny_features.folder, "--annotations", labels, "--out",
                    tmp_path / "run", "--json", *words)
    assert ended.status == 0, ended.err
    told = json.loads(ended.out)
    assert (told["classes"], told["steps"]) == (["jump", "run"], 2)
    assert "1 of 13 annotated videos have no features and are left out: 'elsewhere'." in ended.err
    assert (tmp_path / "run" / "localizer.safetensors").exists()
    recipe = load_recipe(tmp_path / "run" / "recipe.toml")
    assert recipe.options["positions"] == 8
    assert recipe.data.features == str(tiny_features.folder)
    truth = read_truth(tmp_path / "run" / "truth.json")
    assert Counter(v.subset for v in truth.values()) == {"training": 11, "validation": 1}
    assert truth[ids[0]].duration == tiny_features[ids[0]].duration  # not the table's, which does not say
    head = header(tmp_path / "run" / "recipe.toml")
    assert head.commands == (f"cuemark train {tmp_path / 'run' / 'recipe.toml'} --out {tmp_path / 'run'}",)


def test_a_localizers_recipe_says_what_was_decided(tiny_features, tmp_path: Path) -> None:
    ids = list(tiny_features)
    labels = table(tmp_path / "labels.csv", *((vid, 0.2, 1.0, "run") for vid in ids))
    own = own_localizer("gtad", tiny_features.folder, labels, out=tmp_path / "run", validation_share=0,
                        encoder="enc.safetensors")
    sentences(own)
    assert own.recipe.data.validate == ()
    assert own.recipe.encoder.start == "enc.safetensors"
    assert own.recipe.optim.steps == load_recipe("world_gtad").optim.steps
    assert load_recipe(own.file) == own.recipe
    said(own.notes, "no video is held out, as was asked")
    said(own.notes, "the training has 160 updates of 8 videos")


def test_what_a_localizer_cannot_learn_from_is_said(tiny_features, tmp_path: Path, cuemark) -> None:
    labels = table(tmp_path / "labels.csv", ("nobody", 0, 1, "run"))
    with pytest.raises(DataError, match=r"has features of none of the 1 annotated videos, such as 'nobody'"):
        own_localizer("gtad", tiny_features.folder, labels, out=tmp_path / "run")
    with pytest.raises(CallError, match="unknown localizer 'gtda'"):
        own_localizer("gtda", tiny_features.folder, labels, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    ended = cuemark("train", "gtad", "--features", tiny_features.folder, "--out", tmp_path / "run")
    assert ended.status == 2
    assert "--annotations" in ended.err


def test_one_with_an_open_vocabulary_learns_classes_or_where_there_are_none_sentences(tiny_features, tmp_path) -> None:
    ids = list(tiny_features)
    labels = table(tmp_path / "labels.csv", *((vid, 0.2, 1.0, "run") for vid in ids))
    own = own_localizer("unloc", tiny_features.folder, labels, out=tmp_path / "classes", text="minilm")
    assert (own.recipe.options["task"], own.recipe.encoder.text) == ("localize", "minilm")
    said(own.notes, "names are read by 'minilm'")
    truth = {vid: VideoTruth(tiny_features[vid].duration, (Segment(0.2, 1.0, None, None, "somebody runs"),))
             for vid in ids}
    write_truth(tmp_path / "said.json", truth)
    own = own_localizer("unloc", tiny_features.folder, tmp_path / "said.json", out=tmp_path / "said", text="minilm")
    assert (own.recipe.options["task"], own.recipe.encoder.text) == ("retrieve", "minilm")
    said(own.notes, "size and rates are those of world_unloc_retrieve")
    both = {vid: replace(v, annotations=(replace(v.annotations[0], label="run"),)) for vid, v in truth.items()}
    write_truth(tmp_path / "both.json", both)
    for task in ("localize", "retrieve", "segment"):
        own = own_localizer("unloc", tiny_features.folder, tmp_path / "both.json", out=tmp_path / task, text="minilm",
                            changes=[f"options.task={task}"])
        assert own.recipe.options["task"] == task
        said(own.notes, f"size and rates are those of world_unloc{'' if task == 'localize' else f'_{task}'}.")
