"""Files that are whole, locks, and errors that list their places."""

import multiprocessing
import os
import stat
import subprocess
import sys
import threading
import time

import pytest
import torch

from kpnb.backbones import PointGaussian
from kpnb.core import DataError, evaluating, locked, look_again, make_generator, worth_looking, write_safely
from kpnb.ensembles import mc_dropout
from kpnb.evaluation import evaluate, predict
from kpnb.heatmap_training import maps_of
from kpnb.scenes import faces

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links and modes are for Unix")


def write_many(path, letter, n, size=200_000):
    for _ in range(n):
        write_safely(path, letter * size)


def test_two_processes_write_one_file_and_every_reader_finds_it_whole(tmp_path):
    path = tmp_path / "checkpoint"
    write_safely(path, b"a" * 200_000)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(path, letter, 40)) for letter in (b"a", b"b")]
    for w in writers:
        w.start()
    reads = 0
    while any(w.is_alive() for w in writers):
        data = path.read_bytes()
        assert len(data) == 200_000 and data in (data[:1] * 200_000,)
        reads += 1
    for w in writers:
        w.join()
        assert w.exitcode == 0
    assert reads > 10 and os.listdir(tmp_path) == ["checkpoint"]


@needs_links
def test_a_link_stays_a_link_and_a_private_file_private(tmp_path):
    real, link = tmp_path / "far" / "real.csv", tmp_path / "link.csv"
    write_safely(real, b"old")
    real.chmod(0o600)
    link.symlink_to(real)
    write_safely(link, b"new")
    assert link.is_symlink() and real.read_bytes() == b"new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o600


@needs_links
def test_a_link_to_nothing_yet_is_written_through(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "not there yet")
    write_safely(tmp_path / "link", b"x")
    assert (tmp_path / "not there yet").read_bytes() == b"x" and (tmp_path / "link").is_symlink()


@needs_links
def test_a_new_file_has_the_mode_that_the_user_asks_for(tmp_path):
    command = (
        "import os, sys; os.umask(0o027); from kpnb.core import write_safely; write_safely(sys.argv[1], b'x')"
    )
    subprocess.run([sys.executable, "-c", command, str(tmp_path / "f")], check=True)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "f"
    write_safely(path, b"old")
    with pytest.raises(TypeError):
        write_safely(path, "text, not bytes")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["f"]


def test_names_that_look_like_patterns_are_written(tmp_path):
    for name in ("a[b]*.csv", "x" * 200, ".hidden"):
        write_safely(tmp_path / name, b"1")
        write_safely(tmp_path / name, b"2")
        assert (tmp_path / name).read_bytes() == b"2"


@pytest.mark.skipif(sys.platform == "win32", reason="another way there")
def test_what_a_killed_write_leaves_is_removed_by_the_next_one(tmp_path):
    command = """
import os, signal, sys
from kpnb import core
os.replace = lambda a, b: os.kill(os.getpid(), signal.SIGKILL)
core.write_safely(sys.argv[1], b"never")
"""
    path = tmp_path / "f"
    write_safely(path, b"old")
    assert subprocess.run([sys.executable, "-c", command, str(path)]).returncode < 0
    assert len(os.listdir(tmp_path)) == 2 and path.read_bytes() == b"old"
    write_safely(path, b"new")
    assert os.listdir(tmp_path) == ["f"] and path.read_bytes() == b"new"


def test_the_folder_is_pushed_to_the_disk_after_the_file_has_its_name(tmp_path, monkeypatch):
    steps, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        os,
        "fsync",
        lambda fd: (steps.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"), fsync(fd)),
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (steps.append("name"), replace(a, b)))
    write_safely(tmp_path / "f", b"x")
    assert steps == ["file", "name"] + ["folder"] * (sys.platform != "win32")


def add_lines(path, n):
    for _ in range(n):
        with locked(path.with_suffix(".lock"), wait=60):
            write_safely(path, path.read_bytes() + b"x\n")


def test_no_line_of_two_processes_and_two_threads_is_lost(tmp_path):
    path = tmp_path / "log.txt"
    path.touch()
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=add_lines, args=(path, 25)) for _ in range(2)]
    workers += [threading.Thread(target=add_lines, args=(path, 25)) for _ in range(2)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert len(path.read_bytes().splitlines()) == 100


def test_who_holds_a_lock_is_said_and_a_dead_holder_holds_nothing(tmp_path):
    lock = tmp_path / "labels.lock"
    command = """
import sys, time
from kpnb.core import locked
with locked(sys.argv[1], who="the annotator"):
    print("in", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", command, str(lock)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "in\n"
        with pytest.raises(TimeoutError, match=f"held by the annotator, process {process.pid} on "):
            with locked(lock, wait=0.2):
                pass
        process.kill()
    start = time.perf_counter()
    with locked(lock, wait=20):
        assert time.perf_counter() - start < 10


def test_an_error_with_many_places_lists_some_and_counts_the_rest():
    error = DataError([f"a.csv, line {i}: found 'x'" for i in range(20)], "Mend them.")
    text = str(error)
    assert (
        text.startswith("20 problems\n- a.csv, line 0")
        and "and 8 more" in text
        and text.endswith("Mend them.")
    )
    assert len(error.problems) == 20 and str(DataError("one")) == "one"


@pytest.mark.parametrize("seed", [True, 1.5, "1", None])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(TypeError, match="expected a whole number or a torch.Generator"):
        make_generator(seed)


def test_a_check_looks_at_the_first_values_of_each_training_and_then_now_and_then():
    look_again()
    there = torch.empty(2, device="meta")
    looked = [i for i in range(1, 200) if worth_looking(there, "a")]
    assert looked == [*range(1, 9), 64, 128, 192]
    assert worth_looking(there, "b") and not worth_looking(there, "a")
    look_again()
    assert worth_looking(there, "a") and all(worth_looking(torch.ones(1), "a") for _ in range(99))


class Stubborn(torch.nn.BatchNorm1d):
    "A part that stays in eval mode whatever the network around it is told."

    def train(self, mode=True):
        return super().train(False)


def half_frozen():
    "A network in training mode with a part in eval mode, one inside it in training mode, and a stubborn one."
    frozen = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(2)).eval()
    frozen[0].training = True
    return torch.nn.Sequential(frozen, Stubborn(2).eval(), torch.nn.Dropout(0.5))


def modes(model):
    return [part.training for part in model.modules()]


def test_evaluating_gives_every_part_its_own_mode_again():
    for model in (half_frozen(), half_frozen().eval(), half_frozen().train()):
        before = modes(model)
        with evaluating(model):
            assert not any(modes(model))
        assert modes(model) == before


def test_evaluating_gives_the_modes_again_after_an_error_and_when_nested():
    model = half_frozen()
    before = modes(model)
    with pytest.raises(KeyError), evaluating(model):
        with evaluating(model[0]):
            pass
        assert not any(modes(model))
        raise KeyError
    assert modes(model) == before


def test_evaluating_leaves_gradients_alone():
    model = torch.nn.Linear(2, 1)
    with evaluating(model):
        model(torch.ones(1, 2)).sum().backward()
    assert model.weight.grad.tolist() == [[1, 1]]


class Answer(torch.nn.Module):
    "Something that answers like a network of its kind, with a frozen part and a dropout."

    def __init__(self, shape):
        super().__init__()
        self.frozen, self.drop = torch.nn.BatchNorm2d(1).eval(), torch.nn.Dropout(0.5)
        self.shape, self.space = shape, "logits"

    def forward(self, x):
        x = self.drop(self.frozen(x)).mean((1, 2, 3))
        return x.view(-1, *[1 for _ in self.shape]).expand(-1, *self.shape)


class Unsure(Answer):
    def forward(self, x):
        return PointGaussian(super().forward(x), super().forward(x))


def test_what_asks_a_network_leaves_a_frozen_part_frozen():
    ds = faces(3, 32, gray=True, masks=False, seed=1)
    points, unsure, maps = Answer(ds.keypoints.shape[1:]), Unsure(ds.keypoints.shape[1:]), Answer((2, 8, 8))
    for model, ask in (
        (points, lambda: predict(points, ds)),
        (points, lambda: evaluate(points, ds)),
        (unsure, lambda: mc_dropout(unsure, ds, 2)),
        (maps, lambda: maps_of(maps, ds.images)),
    ):
        before = modes(model)
        statistics = model.frozen.running_mean.clone()
        ask()
        assert modes(model) == before == [True, False, True]
        assert model.frozen.running_mean.equal(statistics)
