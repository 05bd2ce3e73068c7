"""Would the tests notice? Core lines are made wrong one by one in a copy of the project; tests beside each must fail.

``python -m tests.audits.mutations`` takes some minutes, prints a table in Markdown, and exits 1 if one is not caught. It
begins with the same tests without a mutation, none of which may fail. Run by hand; docs/tests.md has the table.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 600
"""After which a run of tests counts as failed; they take a few."""


class Mutation(NamedTuple):
    """One core line made wrong.

    Attributes:
        what: in words.
        file: where it stands.
        old, new: the text, which is there once, and what it becomes.
        tests: files of which one test at least must fail.
    """

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTATIONS = (
    Mutation("the projection flips the sign of the change", "attacks/threat.py",
             "return torch.addcmul(clean, shift, share.view(-1, 1, 1, 1), out=shift)",
             "return torch.addcmul(clean, shift, -share.view(-1, 1, 1, 1), out=shift)", ("evaluation/test_judge.py",)),
    Mutation("ℓ∞ steps are projected onto the lower bound only", "attacks/threat.py",
             "return images.clamp_(*self._ends)", "return images.clamp_(self._ends[0], self._ends[0])",
             ("attacks/test_gradient.py",)),
    Mutation("rounding to 8 bit may leave the ball by one level", "attacks/threat.py",
             "reach = math.floor(self.size * 255 * (1 + 1e-9))", "reach = math.ceil(self.size * 255 * (1 + 1e-9))",
             ("evaluation/test_judge.py",)),
    Mutation("images are stored without rounding toward the clean one", "bench/evaluation/judge.py",
             "clean.float() + threat.whole_levels(shift, start)", "clean.float() + shift", ("evaluation/test_judge.py",)),
    Mutation("the judge measures the smallest change, not the largest", "bench/evaluation/judge.py",
             "float(np.abs(shift).max())", "float(np.abs(shift).min())", ("evaluation/test_judge.py",)),
    Mutation("ε is the numerator, not the fraction", "bench/suite.py",
             "size = float(Fraction(text)) if", "size = float(Fraction(text).numerator) if",
             ("test_suite.py",)),
    Mutation("`lower is better` is not inverted", "models/base.py",
             "return share if self.info.higher_is_better else 1 - share", "return share", ("models/test_models.py",)),
    Mutation("`away` goes the wrong way", "attacks/objective.py",
             "torch.where(self.axis >= self.clean, -quality, quality)",
             "torch.where(self.axis >= self.clean, quality, -quality)", ("attacks/test_objective.py",)),
    Mutation("losses share memory with the qualities", "attacks/objective.py",
             "return quality.clone()", "return quality", ("attacks/test_objective.py",)),
    Mutation("queries are counted once per batch", "bench/inference/target.py",
             "self.counts.forwards[self.index] += self.draws", "self.counts.forwards[self.index[:1]] += self.draws",
             ("inference/test_target.py",)),
    Mutation("every image has the same seed", "bench/evaluation/crafting.py",
             "seeds = [seed_of(self.cell.crafting, self.samples[i].image_id) for i in group]",
             "seeds = [seed_of(self.cell.crafting) for i in group]", ("evaluation/test_crafting.py",)),
    Mutation("the suite's seed is ignored", "bench/evaluation/crafting.py",
             "seeds = [seed_of(self.cell.crafting, self.samples[i].image_id) for i in group]",
             "seeds = [seed_of(self.samples[i].image_id) for i in group]", ("evaluation/test_crafting.py",)),
    Mutation("the clean image is scored again, not the attacked one", "bench/evaluation/evaluator.py",
             "np.where(failed, np.nan, adversarial.numpy())", "np.where(failed, np.nan, clean.numpy())",
             ("executors/test_run.py",)),
    Mutation("attacked and clean are swapped in a measure", "bench/metrics/measures.py",
             "return s.sample.spearman(s.mos, s.adv)", "return s.sample.spearman(s.mos, s.clean)",
             ("metrics/test_measures.py",)),
    Mutation("SROCC ranks ties in their order of appearance", "bench/metrics/weighted.py",
             "np.flatnonzero(np.concatenate([[True], rising[1:] != rising[:-1]]))", "np.arange(len(values))",
             ("metrics/test_weighted.py", "metrics/test_measures.py")),
    Mutation("the bootstrap draws images, not references", "bench/metrics/bootstrap.py",
             "np.unique(np.asarray(references, dtype=str), return_inverse=True)",
             "(np.asarray(references, dtype=str), np.arange(len(references)))", ("metrics/test_bootstrap.py",)),
    Mutation("the best rank is 0", "bench/metrics/bootstrap.py",
             "return [1 + sum(other[1] > own[2]", "return [sum(other[1] > own[2]", ("metrics/test_bootstrap.py",)),
    Mutation("a row has the mean over attacks, not the minimum", "bench/results/ranking.py",
             "robust = sample.bounded(sroccs[: len(attacks)], np.min)",
             "robust = sample.bounded(sroccs[: len(attacks)], np.mean)", ("leaderboard/test_leaderboard.py",)),
    Mutation("the checksum of a record's image table is not verified", "bench/results/store.py",
             'record.get("images_sha256") == hashlib.sha256(files.images).hexdigest() and ', "", ("executors/test_run.py",)),
    Mutation("the hash of a record is not verified", "bench/results/store.py",
             "return rest == _hash_of(before)", "return True", ("results/test_packed.py",)),
    Mutation("the hashes of a bundle's members are not verified", "bench/submission/bundle.py",
             "if _sha256(content) != member.sha256:", "if False:", ("submission/test_bundle.py",)),
    Mutation("a higher robust SROCC beats a listed row", "bench/submission/standing.py",
             "gap = listed - measured", "gap = measured - listed", ("submission/test_standing.py",)),
)  # fmt: skip


def copied(home: Path) -> Path:
    """A copy of the project in a folder."""
    hidden = shutil.ignore_patterns(".*", "__pycache__", "site-packages")

    def ignored(folder: str, names: list[str]) -> set[str]:
        outputs = {"build", "dist", "docs", "results", "runs"} if Path(folder) == ROOT else set()  # not tests/results
        return hidden(folder, names) | outputs & set(names)

    return shutil.copytree(ROOT, home, ignore=ignored, dirs_exist_ok=True)


def failed(home: Path, tests: tuple[str, ...], stop: bool = True) -> list[str]:
    """The tests of some files that fail in a copy of the project.

    Args:
        home: the copy.
        tests: names of files.
        stop: at the first that fails.
    """
    words = [
        *(sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no", "-rfE"),
        *(["-x"] if stop else []),
    ]
    try:
        done = subprocess.run(
            [*words, *(f"tests/{name}" for name in tests)],
            cwd=home,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return ["no end"]
    found = re.findall(r"^(?:FAILED|ERROR) tests/(\S+)", done.stdout, re.MULTILINE)
    return found or ([f"exit {done.returncode}"] if done.returncode else [])


def main() -> None:
    """One mutation after the other, and the table."""
    print("| made wrong | in | caught by | s |\n|---|---|---|--:|")
    missed = 0
    with tempfile.TemporaryDirectory(prefix="iqarena-mutations-") as name:
        home = copied(Path(name))
        if broken := failed(home, tuple(sorted({test for mutation in MUTATIONS for test in mutation.tests})), stop=False):
            sys.exit(f"these fail without any mutation: {', '.join(broken)}")
        for mutation in MUTATIONS:
            file, begun = home / mutation.file, time.perf_counter()
            whole = file.read_text(encoding="utf-8")
            if whole.count(mutation.old) != 1:
                sys.exit(f"{mutation.file} does not have {mutation.old!r} once")
            file.write_text(whole.replace(mutation.old, mutation.new, 1), encoding="utf-8")
            caught = failed(home, mutation.tests)
            file.write_text(whole, encoding="utf-8")
            missed += not caught
            by = f"`{caught[0].split(' ')[0].split('[')[0]}`" if caught else "**nothing**"
            print(f"| {mutation.what} | `{mutation.file}` | {by} | {time.perf_counter() - begun:.0f} |", flush=True)
    print(f"\n{len(MUTATIONS) - missed} of {len(MUTATIONS)} caught.")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
