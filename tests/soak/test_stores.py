"""Stores killed at random moments, for random times, over several epochs: every sample comes as from the local folder.

`pytest tests/soak/test_stores.py -s` runs this, which takes some ten minutes, and prints a dated line for each kill.
SHERD_SOAK_SEED repeats the moments of an earlier run, as far as the machine's own pace allows.
"""

import datetime
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs
    from tests.end_to_end import stores as Stores
    from tests.end_to_end import streams as Streams

KILLS, EPOCHS, SAMPLES = 15, 8, 1200
ABSENCES = (0.1, 1.0, 4.0, 15.0)
"""Seconds."""


class Campaign:
    """Streams of several epochs, from a store that is killed again and again."""

    def __init__(self, start: "Callable[..., Streams.Streaming]", say: Callable[[str], None]) -> None:
        self._start, self._say = start, say
        self._seed = int(os.environ.get("SHERD_SOAK_SEED", random.SystemRandom().randrange(10**6)))
        self._dice = random.Random(self._seed)

    def fight(self, pictures: Path, store: "Stores.Store", world: int) -> None:
        """Stream on so many ranks, kill and start the store, compare with the local folder."""
        self._say(f"{store.url}, {world} rank(s), SHERD_SOAK_SEED={self._seed}")
        expected = self._rows([self._start(pictures, {}, "--epochs", EPOCHS, "--workers", 0)])
        assert len(expected) == EPOCHS * SAMPLES
        # With the pauses the stream takes longer than all the kills; a cache this small makes every epoch ask again.
        options = ("--epochs", EPOCHS, "--world", world, "--pause", 0.8)
        environment = {**store.environment, "SHERD_CACHE_BYTES": "3000000"}
        store.start()
        ranks = [self._start(store.url, environment, *options, "--rank", rank) for rank in range(world)]
        batches = -1
        for kill in range(1, KILLS + 1):
            ranks[0].wait_until(lambda before=batches: ranks[0].batches > before)
            up, away = self._dice.uniform(0.5, 5), self._dice.choice(ABSENCES)
            time.sleep(up)
            assert not any(rank.has_ended for rank in ranks), [rank.end() for rank in ranks if rank.has_ended]
            store.kill()
            batches = ranks[0].batches
            self._say(f"kill {kill}/{KILLS}, {up:.2f} s after a batch; {batches} shown; away for {away:g} s")
            time.sleep(away)
            store.start()
        shown = self._rows(ranks)
        wrong = [position for position in expected if shown.get(position) != expected[position]]
        assert shown == expected, f"seed {self._seed}: {len(wrong)} positions differ, the first are {wrong[:5]}"
        self._say(f"{len(shown)} rows in {EPOCHS} epochs, each as from the local folder")

    def _rows(self, ranks: "list[Streams.Streaming]") -> "Streams.Rows":
        rows: Streams.Rows = {}
        for rank in ranks:
            rank.end(timeout=600).expect(0)
            rows |= rank.rows()
        return rows


@pytest.fixture
def campaign(runs: "Runs", streams: "Streams", tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Campaign:
    def say(text: str) -> None:
        with capsys.disabled():
            print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC  {text}", flush=True)

    def start(data: object, environment: dict[str, str], *options: object) -> "Streams.Streaming":
        return streams.Streaming(runs, data, tmp_path, environment, *options)

    return Campaign(start, say)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["nginx", "s3rver", "moto_s3"])
def test_stores_that_are_killed(
    campaign: Campaign, stores: "Stores", pictures: Path, tmp_path: Path, kind: str
) -> None:
    limit = {} if kind == "s3rver" else {"rate": 300_000}
    store = getattr(stores, kind)(pictures, tmp_path / "store", **limit)
    campaign.fight(pictures, store, world=2 if kind == "nginx" else 1)
    store.kill()
