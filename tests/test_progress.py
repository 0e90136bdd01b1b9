from __future__ import annotations

import io

import pytest

from trelm.progress import Progress, quantity


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that rise only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def fail_in_step(progress: Progress, clock: Clock, error: BaseException) -> None:
    with progress, progress.step("training"):
        clock.now += 7
        raise error


@pytest.mark.parametrize(("value", "text"), [(1234, "1,234"), (0.5123, "0.512"), (12.34, "12.3"), (1234.5, "1,234")])
def test_quantity(value: float, text: str) -> None:
    assert quantity(value) == text


class TestPlainLines:
    def test_start_end_and_steps_done_before(self, clock: Clock) -> None:
        stream = io.StringIO()
        with Progress(12, stream=stream, clock=clock) as progress:
            progress.skip("corpus")
            progress.skip("vocabulary")
            with progress.step("word-links"):
                clock.now += 41
        assert stream.getvalue().splitlines() == [
            "[1/12] corpus: done before",
            "[2/12] vocabulary: done before",
            "[3/12] word-links",
            "[3/12] word-links: done in 41 s",
        ]

    def test_one_line_every_ten_seconds_at_most(self, clock: Clock) -> None:
        stream = io.StringIO()
        with Progress(1, stream=stream, clock=clock) as progress, progress.step("training") as step:
            for second in range(26):
                step.update(100 * second, 4000, "tokens", masked_loss=5 - second / 10)
                clock.now += 1
        assert stream.getvalue().splitlines() == [
            "[1/1] training",
            "[1/1] training: 1,000/4,000 tokens, 30 s left, 100 tokens/s, masked loss 4",
            "[1/1] training: 2,000/4,000 tokens, 20 s left, 100 tokens/s, masked loss 3",
            "[1/1] training: done in 26 s",
        ]

    def test_a_resumed_step_counts_only_what_it_did_itself(self, clock: Clock) -> None:
        stream = io.StringIO()
        with Progress(1, stream=stream, clock=clock) as progress, progress.step("training") as step:
            step.update(1000, 2000, "tokens")
            clock.now += 10
            step.update(1100, 2000, "tokens")
        assert "1,100/2,000 tokens, 1 min 30 s left, 10 tokens/s" in stream.getvalue()

    def test_a_count_that_starts_anew_has_a_rate_of_its_own(self, clock: Clock) -> None:
        stream = io.StringIO()
        with Progress(1, stream=stream, clock=clock) as progress, progress.step("aligning") as step:
            step.update(500, None, "pairs")
            step.update(0, None, "pairs")
            clock.now += 20
            step.update(40, None, "pairs")
        assert "40 pairs, 2 pairs/s" in stream.getvalue()

    def test_without_total_or_unit(self, clock: Clock) -> None:
        stream = io.StringIO()
        with Progress(1, stream=stream, clock=clock) as progress, progress.step("reading") as step:
            step.update(0)
            clock.now += 10
            step.update(5)
        assert "[1/1] reading: 5, 0.5 a second\n" in stream.getvalue()

    def test_notes_stay_as_they_are(self, clock: Clock) -> None:
        stream = io.StringIO()
        with Progress(1, stream=stream, clock=clock) as progress, progress.step("corpus") as step:
            step.note("dropped [3] lines")
        assert "[1/1] corpus: dropped [3] lines\n" in stream.getvalue()

    def test_an_interruption_is_told_and_passed_on(self, clock: Clock) -> None:
        stream = io.StringIO()
        with pytest.raises(KeyboardInterrupt):
            fail_in_step(Progress(2, stream=stream, clock=clock), clock, KeyboardInterrupt())
        assert stream.getvalue().endswith("[1/2] training: stopped after 7.0 s\n")


def test_quiet_says_nothing(clock: Clock) -> None:
    for stream in (io.StringIO(), Terminal()):
        with Progress(2, quiet=True, stream=stream, clock=clock) as progress:
            progress.skip("corpus")
            with progress.step("training") as step:
                clock.now += 60
                step.update(1, 2)
                step.note("something")
        assert stream.getvalue() == ""


def test_standard_error_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(1) as progress:
        progress.skip("corpus")
    assert capsys.readouterr() == ("", "[1/1] corpus: done before\n")


class TestTerminal:
    @pytest.mark.parametrize("columns", ["80", "120"])
    def test_finished_steps_stay_as_lines(self, clock: Clock, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
        monkeypatch.setenv("COLUMNS", columns)
        stream = Terminal()
        name = "a step [bold]with[/bold] a name " + "that goes on " * 10
        with Progress(3, stream=stream, clock=clock) as progress:
            progress.skip("corpus")
            with progress.step(name) as step:
                step.update(0, 10, "pairs")
                clock.now += 5
                step.update(5, 10, "pairs", loss=0.25)
                step.note("[kept] 7")
            with progress.step("export"):
                pass
        written = stream.getvalue()
        assert "[1/3] corpus: done before" in written
        assert f"[2/3] {name}: [kept] 7" in written
        assert f"[2/3] {name}: done in 5.0 s" in written
        assert "[3/3] export: done in 0.0 s" in written

    def test_the_live_line_tells_rate_loss_and_time_left(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.setenv("TERM", "xterm")
        stream = Terminal()
        with Progress(3, stream=stream, clock=clock) as progress, progress.step("training") as step:
            step.update(0, 1000, "tokens")
            clock.now += 5
            step.update(500, 1000, "tokens", loss=0.25)
        assert "500/1,000 tokens, 5.0 s left, 100 tokens/s, loss 0.25" in stream.getvalue()

    def test_the_cursor_comes_back_after_an_error(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "xterm")
        stream = Terminal()
        with pytest.raises(ValueError, match="broken"):
            fail_in_step(Progress(1, stream=stream, clock=clock), clock, ValueError("broken"))
        written = stream.getvalue()
        assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l")
        assert "[1/1] training: stopped after 7.0 s" in written
