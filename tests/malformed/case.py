"""What one row of the tables says."""

import dataclasses
import typing


@dataclasses.dataclass
class Case:
    id: str                           # row of the corpus: S01, I01, C01, Q01 …
    name: str                         # the variant
    damage: typing.Callable           # changes the Box
    expect: object                    # exit code, or a tuple of those that will do
    says: str = ""                    # regular expression to be found in stderr
    base: str = "sharded"             # which good checkpoint is damaged, see checkpoint.BASES
    same: bool = False                # on success: the tensors equal those of the undamaged conversion
    check: typing.Callable = None     # on success: returns a complaint or None
    seconds: float = 5.0              # processor time; four times as much by the clock
    memory_mib: int = 256
    target: str = "transformers-4.x"

    def expected(self):
        return self.expect if isinstance(self.expect, tuple) else (self.expect,)
