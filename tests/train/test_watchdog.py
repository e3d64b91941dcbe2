"""A step that hangs ends the process and says where it stood; nothing else does."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mae_jax.errors import HANG
from mae_jax.train.callbacks.watchdog import HangWatchdog


@contextmanager
def a_step_of(watchdog: HangWatchdog) -> Iterator[None]:
    watchdog.on_step_start()
    yield
    watchdog.on_step_end()


def waits_for(event: threading.Event) -> None:
    event.wait(60)


def test_a_hanging_step_ends_the_process_with_its_stack(capfd, caplog):
    ended = threading.Event()
    watchdog = HangWatchdog(0.2, ended.set)
    with a_step_of(watchdog):  # not watched: it compiles
        assert not ended.wait(0.6)
    assert not ended.wait(0.6)  # neither is this
    with a_step_of(watchdog):
        waits_for(ended)
    assert ended.is_set()
    assert "a step has not ended for 0.2 seconds" in caplog.text
    assert "in waits_for" in capfd.readouterr().err
    watchdog.close()


@pytest.mark.slow
def test_the_process_ends_though_its_main_thread_hangs():
    words = (
        "import time\n"
        "from mae_jax.train.callbacks import HangWatchdog\n"
        "watchdog = HangWatchdog(0.2)\n"
        "for seconds in (0, 600): watchdog.on_step_start(); time.sleep(seconds)"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, timeout=120)
    assert done.returncode == HANG


def test_steps_in_time_and_what_lies_between_them_pass():
    ended = threading.Event()
    watchdog = HangWatchdog(0.5, ended.set)
    for _ in range(4):
        with a_step_of(watchdog):
            time.sleep(0.01)
        time.sleep(0.2)
    watchdog.on_step_start()  # a step that raises is followed by close
    watchdog.close()
    assert not ended.wait(0.7)


def test_zero_seconds_watch_nothing():
    before = threading.active_count()
    watchdog = HangWatchdog(0)
    with a_step_of(watchdog):
        pass
    assert threading.active_count() == before
    watchdog.close()
