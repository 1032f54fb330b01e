# Reading the types of transformers takes longer than all the rest; what it returns is checked where
# it is used.
from typing import Any

def __getattr__(name: str) -> Any: ...
