"""The watch of learning: evaluations left out, and kept in a checkpoint."""

import math
import pickle

from avalanche_dgm.plugins import learning_time
from avalanche_dgm.plugins.learning_time import LearningTime


def test_what_counts(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(learning_time.time, "perf_counter", lambda: now[0])

    def passes(seconds):
        now[0] += seconds

    watch = LearningTime()
    assert math.isnan(watch.seconds())
    watch.resume()
    assert math.isnan(watch.seconds()), "nothing was paused"
    watch.start()
    passes(2)
    watch.pause()
    passes(50)
    watch.resume()
    passes(3)
    assert watch.seconds() == 5
    again = pickle.loads(pickle.dumps(watch))
    assert math.isnan(again.seconds())
    passes(1000)
    again.start()
    passes(1)
    assert again.seconds() == 6
    again.shown = 7
    again.restart()
    passes(4)
    assert (again.seconds(), again.shown) == (4, 0)
