"""Which block holds the KV of which prefix: a sha256 chain over tokens, rooted in a secret.

Knows keys and block ids. Does not know who refers to a block, nor when its KV is written: the
caller publishes a block once the step that fills it has been committed.
"""

import secrets
from collections.abc import Sequence
from hashlib import sha256
from struct import Struct

from engine.paged.request import IntegrityError


class PrefixIndex:
    """Full blocks by key, one block per key and one key per block; the first writer wins.

    key(i) = sha256(key(i - 1) + tokens of block i as int32, little-endian), and key(-1) is
    sha256(root + salt). The root is random per process, so nobody outside can construct a
    collision; the salt keeps one API key from timing another's prompts.
    """

    def __init__(
        self, num_blocks: int, block_size: int, *, root: bytes | None = None, enabled: bool = True
    ) -> None:
        """root: for tests, else random. enabled: False makes every key list empty."""
        self.is_enabled = enabled
        self._root = secrets.token_bytes(32) if root is None else root
        self._size = block_size
        self._pack = Struct(f"<{block_size}i").pack
        self._blocks: dict[bytes, int] = {}
        self._keys: list[bytes | None] = [None] * num_blocks
        self._claims: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def extend(self, keys: list[bytes], tokens: Sequence[int], salt: bytes) -> None:
        """Append the missing keys, so that `keys` has one for every full block of `tokens`."""
        if not self.is_enabled:
            return
        size = self._size
        parent = keys[-1] if keys else sha256(self._root + salt).digest()
        for start in range(len(keys) * size, len(tokens) - size + 1, size):
            parent = sha256(parent + self._pack(*tokens[start : start + size])).digest()
            keys.append(parent)

    def match(self, keys: Sequence[bytes]) -> list[int]:
        """The blocks of the longest published prefix of `keys`."""
        found: list[int] = []
        for key in keys:
            block = self._blocks.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def publish(self, key: bytes, block: int, owner: int) -> None:
        """Offer a full, committed block unless the key has one; ends `owner`'s claim to the key."""
        self._unclaim(key, owner)
        if key in self._blocks:
            return
        if self._keys[block] is not None:
            raise IntegrityError(f"block {block} is published under another key")
        self._blocks[key] = block
        self._keys[block] = key

    def has(self, block: int) -> bool:
        return self._keys[block] is not None

    def forget(self, block: int) -> None:
        """Withdraw a block that is about to be written anew; nothing happens if it has no key."""
        key = self._keys[block]
        if key is not None:
            del self._blocks[key]
            self._keys[block] = None

    def claim(self, keys: Sequence[bytes], owner: int) -> None:
        """Tell others that request `owner` is computing these, unless somebody else does."""
        for key in keys:
            self._claims.setdefault(key, owner)

    def unclaim(self, keys: Sequence[bytes], owner: int) -> None:
        for key in keys:
            self._unclaim(key, owner)

    def _unclaim(self, key: bytes, owner: int) -> None:
        if self._claims.get(key) == owner:
            del self._claims[key]

    def is_claimed(self, key: bytes) -> bool:
        """Whether somebody is computing the block of `key` now."""
        return key in self._claims

    def claimants(self) -> set[int]:
        return set(self._claims.values())

    def check(self) -> None:
        """Raise IntegrityError unless keys and blocks mirror each other."""
        mirrored = {key: block for block, key in enumerate(self._keys) if key is not None}
        if mirrored != self._blocks:
            raise IntegrityError("prefix index: keys and blocks do not mirror each other")
