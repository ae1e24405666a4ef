"""The one object that is asked before a model comes in, is made, is loaded or is handed on.

Puts the rules (policy.py) together with what they are about: the settings, the enrolled
repositories, the locks of unsigned models and, told from above, what each signed release is here.
Everything is read anew for each question, so that an enrolment counts at once. Synchronous: the
service calls it in a thread.

The model that ships with the package counts as signed by its vendor: it is recognised by the digest
of the manifest that the package itself makes, under its own name alone.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from yarl import URL

from appliance.config import Settings
from appliance.errors import LibraryError
from appliance.library import builtin
from appliance.library.manifest import Digest
from appliance.library.names import ModelName
from appliance.library.stored import StoredModel
from appliance.trust.errors import PolicyRefusedError
from appliance.trust.hosts import KnownHosts
from appliance.trust.locks import Lock, Locks
from appliance.trust.policy import Decision, Mode, Offer, TrustPolicy, Verdict, effective_mode
from appliance.trust.repositories import Repositories

LOCK_FILE = "lock.json"
VENDOR = "the package"  # who vouches for the built-in model; no repository can be called so


@dataclass(frozen=True, slots=True)
class Signed:
    """What a signed release is on this box: who signed, and its manifests that may be loaded."""

    repository: str
    manifests: frozenset[Digest]


Vouch = Callable[[ModelName], Signed | None]


class Gate:
    """See the module's text. `vouched_by` is called once, before anything is served."""

    def __init__(
        self,
        settings: Settings,
        repositories: Repositories,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._configured = None if settings.trust_mode == "auto" else Mode(settings.trust_mode)
        self._known = KnownHosts.of(settings)
        self._repositories = repositories
        self._locks = Locks(settings.state / LOCK_FILE)
        self._now = now
        self._vouch: Vouch = _nobody

    def vouched_by(self, vouch: Vouch) -> None:
        """Ask `vouch` which manifests of a name a repository has signed.

        It raises LibraryError where that is damaged: then nobody vouches for that name.
        """
        self._vouch = vouch

    def mode(self) -> Mode:
        """The mode that counts now; raises LibraryError for a damaged repository."""
        if self._configured is not None:
            return self._configured
        return effective_mode(None, self._repositories.has_site_root())

    # -- coming in --------------------------------------------------------------------------

    def decide_pull(self, name: ModelName, url: URL, digest: Digest | None = None) -> Decision:
        """Whether an unsigned model may come from the registry at `url`; with the digest of its
        manifest also whether it is still what it was. Raises LibraryError for damaged locks."""
        lock = self._locks.get(name)
        offer = Offer(
            name,
            url.host or "",
            is_private=self._known.is_private(url),
            digest=str(digest) if digest else None,
            locked_digest=lock.digest if lock else None,
        )
        policy = self._policy()
        decision = policy.decide(offer)
        return policy.may_create(name) if decision.repository else decision

    def require_pull(
        self, name: ModelName, url: URL, digest: Digest | None = None, *, confirmed: bool
    ) -> None:
        """Raise PolicyRefusedError unless `decide_pull` allows it, or a person confirmed it."""
        self.decide_pull(name, url, digest).require(confirmed=confirmed)

    def lock(self, name: ModelName, url: URL, digest: Digest) -> None:
        """Note what an unsigned model is, durably: later changes need a person."""
        held = self._locks.get(name)
        if held is None or held.digest != str(digest):
            self._locks.put(name, Lock(str(digest), url.host or "", int(self._now())))

    def unlock(self, name: ModelName) -> None:
        """Forget what was pulled as `name`: it was removed, or made anew here."""
        self._locks.remove(name)

    def require_create(self, name: ModelName) -> None:
        """Raise PolicyRefusedError where no unsigned model may be made under `name`."""
        self._policy().may_create(name).require(confirmed=False)

    def require_upload(self) -> None:
        """Raise PolicyRefusedError where no bytes of a caller may become a model."""
        self._policy().may_upload("what is uploaded").require(confirmed=False)

    # -- being here -------------------------------------------------------------------------

    def require_serve(self, model: StoredModel) -> None:
        """Raise PolicyRefusedError before the weights of a model are read that may not be loaded.

        Where damage hides the mode, signed models serve on, and no others.
        """
        problem: LibraryError | None = None
        try:
            mode = self.mode()
        except LibraryError as error:
            mode, problem = Mode.SIGNED, error
        if mode is not Mode.SIGNED:
            return
        try:
            signer = self._signer(model)
        except LibraryError as error:
            signer, problem = None, error
        decision = TrustPolicy(mode).may_serve(model.name, signer)
        if problem is not None and decision.verdict is not Verdict.ALLOW:
            raise PolicyRefusedError(str(problem), rule=decision.rule, hint=problem.hint)
        decision.require(confirmed=False)

    def may_share(self, model: StoredModel) -> bool:
        """Whether the network may fetch it from here. Raises LibraryError."""
        policy = TrustPolicy(self.mode())
        return policy.may_share(model.name, self._signer(model)).verdict is Verdict.ALLOW

    def labels(self, models: Sequence[StoredModel]) -> list[str]:
        """What lists and pages show beside each model. Damage makes it say less, not fail."""
        return [self._label(model) for model in models]

    def problems(self) -> list[str]:
        """What is damaged of all this."""
        found = []
        for read in (self._repositories.all, self._locks.check):
            try:
                read()
            except LibraryError as error:
                found.append(f"{error}; {error.hint}")
        return found

    def _label(self, model: StoredModel) -> str:
        try:
            signer, lock = self._signer(model), self._locks.get(model.name)
            is_owned = self._vouch(model.name) is not None
        except LibraryError:
            return "unsigned (damaged)"
        if signer is not None:
            return "built in" if signer == VENDOR else f"signed ({signer})"
        if is_owned or (lock and lock.digest != f"sha256:{model.digest}"):
            return "unsigned (changed)"  # not what was signed, or pulled, under this name
        return "unsigned (locked)" if lock else "unsigned"

    def _signer(self, model: StoredModel) -> str | None:
        """Who vouches for exactly this manifest under exactly this name."""
        signed = self._vouch(model.name)
        if signed is not None and Digest(model.digest) in signed.manifests:
            return signed.repository
        is_ours = model.name == builtin.NAME and Digest(model.digest) == builtin.manifest_digest()
        return VENDOR if is_ours else None

    def _policy(self) -> TrustPolicy:
        return TrustPolicy(self.mode(), self._known.names, self._repositories.owned())


def _nobody(_name: ModelName) -> Signed | None:
    return None
