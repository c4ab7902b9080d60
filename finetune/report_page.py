"""A report: folders in, one HTML page out that needs nothing else."""

import datetime
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from data_pipeline.manifest import DatasetError
from finetune.report_accuracy import accuracy_blocks
from finetune.report_blocks import NOTHING, Block, Chapter, Layout, Note, Section, SummaryRow, shown
from finetune.report_comparisons import benchmark_blocks, best_pretrained, sub_run_blocks
from finetune.report_evaluation import evaluation_blocks
from finetune.report_facts import gather_facts
from finetune.report_folders import Folder, Kind
from finetune.report_maps import map_blocks, position_blocks
from finetune.report_probe import probe_blocks, read_probe
from finetune.report_teacher import has_teacher, teacher_blocks
from finetune.report_training import curve_blocks, property_blocks, reconstruction_blocks, throughput_blocks
from launch.console import format_duration, format_rate
from pretrain.supervised_config import SCRATCH

Build = Callable[[Folder, str], list[Block]]
"""The blocks of a section; `anchor`, the second argument, is unique in the page."""

SUMMARY = ("what it is", "recipe", "status", "steps", "last loss", "best accuracy", "images/s", "duration")

_SUPERVISED: frozenset[Kind] = frozenset({"distillation", "fine-tuning", "training"})
_TEMPLATE = Path(__file__).with_name("report.html.jinja")


def build_page(folders: Sequence[Folder], images: int, say: Callable[[str], None]) -> str:
    """The page's HTML; attention is shown on so many images. What a folder lacks is said in the page."""
    chapters = []
    for number, folder in enumerate(folders, start=1):
        say(f"report: {folder.name} ({folder.kind}, {folder.status})")
        chapters.append(_chapter(folder, f"r{number}", images))
    return _template().render(
        head=SUMMARY,
        summary=[_summary(folder, chapter) for folder, chapter in zip(folders, chapters, strict=True)],
        chapters=chapters,
        made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["css_name"] = lambda text: re.sub(r"\W.*", "", text, flags=re.DOTALL)
    environment.filters["breakable"] = lambda path: escape(path).replace("/", Markup("/<wbr>"))
    return environment.get_template(_TEMPLATE.name)


def _chapter(folder: Folder, anchor: str, images: int) -> Chapter:
    sections = []
    for title, name, layout, build in _sections(folder, images):
        own = f"{anchor}-{name}"
        if blocks := _blocks_or_note(folder, own, build):
            sections.append(Section(title, own, tuple(blocks), layout))
    return Chapter(folder.name, anchor, _what(folder), folder.status, tuple(_notes(folder)), tuple(sections))


def _sections(folder: Folder, images: int) -> Iterator[tuple[str, str, Layout, Build]]:
    """Title, name, layout and builder of what a folder of this kind may have."""
    if folder.kind == "benchmark":
        yield "Accuracy by number of labels", "accuracy", "stack", benchmark_blocks
        yield "Runs", "runs", "stack", sub_run_blocks
    elif folder.kind == "probe":
        yield "Frozen features", "probe", "stack", probe_blocks
        if (folder.path / "evaluation.json").is_file():
            yield "Linear probe", "accuracy", "halves", accuracy_blocks
        if folder.metrics:
            yield "Curves", "curves", "thirds", _curves
    else:
        if folder.kind in _SUPERVISED:
            yield "Accuracy", "accuracy", "halves", evaluation_blocks
        if has_teacher(folder):
            yield "Teacher", "teacher", "stack", teacher_blocks
        yield "Curves", "curves", "thirds", _curves
        if folder.kind == "pre-training":
            yield "Reconstructions", "reconstructions", "stack", reconstruction_blocks
        yield "Attention", "attention", "stack", lambda folder, _: map_blocks(folder, images)
        yield "Position embeddings", "positions", "stack", lambda folder, _: position_blocks(folder)
    yield "Settings", "settings", "stack", property_blocks


def _curves(folder: Folder, anchor: str) -> list[Block]:
    blocks = [*curve_blocks(folder, anchor), *throughput_blocks(folder, anchor)]
    return sorted(blocks, key=lambda block: block.kind == "note")


def _blocks_or_note(folder: Folder, anchor: str, build: Build) -> list[Block]:
    try:
        return build(folder, anchor)
    except (ValueError, OSError, DatasetError) as error:
        # A report of what there is helps more than none: why this part is absent is told in its place.
        return [Note(f"Not shown: {error}.")]


def _notes(folder: Folder) -> Iterator[str]:
    yield from folder.problems
    if folder.ended.get("error"):
        yield f"The run failed: {folder.ended['error']}"
    if not folder.ended and folder.config:
        yield "exit.json is not there: the run is still going on, or was killed."


def _what(folder: Folder) -> str:
    if folder.kind not in _SUPERVISED:
        return folder.kind
    alone = "training from scratch" if folder.config.get("init") == SCRATCH else "fine-tuning"
    labels = folder.config.get("labels")
    return ("distillation" if has_teacher(folder) else alone) + (f", {labels} labels a class" if labels else "")


def _summary(folder: Folder, chapter: Chapter) -> SummaryRow:
    facts = gather_facts(folder)
    cells = (
        chapter.what,
        str(folder.config.get("recipe", NOTHING)),
        folder.status,
        shown(facts.steps, "{:,}".format),
        shown(facts.loss, "{:.4g}".format),
        _best(folder),
        shown(facts.images_per_second, format_rate),
        shown(facts.seconds, format_duration),
    )
    return SummaryRow(folder.name, chapter.anchor, folder.status, cells)


def _best(folder: Folder) -> str:
    """The accuracy to remember a folder by."""
    try:
        if folder.kind == "probe":
            probe = read_probe(folder)
            return f"{probe.linear.top1:.1%} linear, {probe.knn.top1:.1%} k-NN"
        if folder.kind == "benchmark":
            return shown(best_pretrained(folder), "{:.1%} pre-trained".format)
    except ValueError:
        return NOTHING  # its own section says why
    best = gather_facts(folder).best
    return NOTHING if best is None else f"{best[1]:.1%} {best[0]}"
