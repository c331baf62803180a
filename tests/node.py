"""JavaScript as an oracle: one node process that answers a line for every line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

_ORACLES = Path(__file__).parent / "oracles"


class Node:
    """A script of tests/oracles, run by the *program* node for as long as `with` lasts."""

    def __init__(self, program: str, script: str) -> None:
        self._process = subprocess.Popen(
            [program, str(_ORACLES / script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._process:  # closes its input, which ends it
            pass

    def ask(self, question: Any) -> Any:
        """Its answer to one line."""
        [answer] = self.ask_all([question])
        return answer

    def ask_all(self, questions: list[Any]) -> list[Any]:
        """Its answers, in order; few enough questions to fit into a pipe."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("".join(json.dumps(question) + "\n" for question in questions))
        self._process.stdin.flush()
        answers = []
        for _ in questions:
            line = self._process.stdout.readline()
            assert line, "node has ended"
            answers.append(json.loads(line))
        return answers
