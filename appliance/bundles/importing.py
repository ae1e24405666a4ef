"""Models from a medium into the box: what enrolled repositories have signed, and nothing else.

Each release is installed as if it came over the network: fetched, proven by its smoke tests, made
active. A medium that is pulled out in the middle leaves what was active, and is gone on with the
next time. Afterwards the box writes a report onto it.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from appliance.bundles.bundles import Bundles, Origin
from appliance.bundles.channel_state import split_key
from appliance.bundles.channels import Channels
from appliance.bundles.folder_content import FolderContent
from appliance.bundles.import_plan import Plan, Receiver, make_plan, metadata_source, trust_medium
from appliance.bundles.layout import Layout
from appliance.bundles.medium import find_layout
from appliance.bundles.release import Release
from appliance.bundles.report import Result, write_report
from appliance.errors import ApplianceError, LibraryError, RegistryError, RegistryUnreachableError
from appliance.library.library import Library
from appliance.library.names import ModelName
from appliance.transfer.progress import Progress
from appliance.trust.repositories import Repositories

log = logging.getLogger("hearth.bundles")


class Importer:
    """Imports into one box."""

    def __init__(
        self, library: Library, repositories: Repositories, bundles: Bundles, channels: Channels
    ) -> None:
        self._library = library
        self._repositories = repositories
        self._bundles = bundles
        self._channels = channels

    async def bring(
        self,
        path: Path,
        names: Sequence[ModelName] = (),
        *,
        retry: bool = False,
        follow: Sequence[str] = (),
    ) -> AsyncGenerator[Progress, None]:
        """Install what the medium at `path` has for this box, or the models `names` alone.

        Without names also what followed channels say there, and in any case those of `follow`,
        which are followed from now on. `retry`: also releases that failed here before. Raises
        BadRequestError, NotFoundError, RegistryError or TrustError for a medium that cannot be
        used; then no model was changed. What cannot be installed is told, all else is, and then
        the first error is raised.
        """
        layout = await asyncio.to_thread(find_layout, path)
        async with aclosing(self._bring(layout, names, retry, follow)) as lines:
            async for line in lines:
                yield line

    async def bring_layout(self, root: Path) -> AsyncGenerator[Progress, None]:
        """As `bring` without names, of the layout that `root` itself is."""
        layout = Layout(root)
        await asyncio.to_thread(layout.check)
        async with aclosing(self._bring(layout, (), False, ())) as lines:
            async for line in lines:
                yield line

    async def _bring(
        self, layout: Layout, names: Sequence[ModelName], retry: bool, follow: Sequence[str]
    ) -> AsyncGenerator[Progress, None]:
        yield Progress(f"reading {layout.root}")
        fitting = self._bundles.fitting()
        plan = await asyncio.to_thread(self._prepare, layout, names, follow, fitting)
        for remark in plan.remarks:
            yield Progress(remark)
        told = _Told()
        for name, repository in plan.pairs():
            yield Progress(f"importing {name.short}")
            origin = await asyncio.to_thread(_origin, layout, repository)
            lines = self._bundles.install(name, origin, retry=retry)
            async for line in told.of(name.short, lines):
                yield line
        for key, data in plan.channels.items():
            yield Progress(f"taking what the channel {key} says")
            origin = await asyncio.to_thread(_origin, layout, split_key(key)[0])
            lines = self._channels.take(key, data, origin, retry=retry)
            async for line in told.of(key, lines):
                yield line
        yield Progress(await asyncio.to_thread(self._report, layout, told.results))
        counts = len(told.results), len(told.failures)
        log.info("imported from=%s wishes=%d failed=%d", layout.root, *counts)
        if told.failures:
            raise told.failures[0]
        yield Progress("success")

    def _prepare(
        self,
        layout: Layout,
        names: Sequence[ModelName],
        follow: Sequence[str],
        fitting: Callable[[ModelName, Release], str],
    ) -> Plan:
        box = Receiver(
            self._repositories,
            self._library.blobs,
            [ModelName.parse(state.name) for state in self._bundles.states()],
            [each.key for each in self._channels.followed()],
            fitting,
        )
        plan = make_plan(layout, box, names, follow)
        return trust_medium(plan, box, all_must_be_listed=bool(names), follow=follow)

    def _report(self, layout: Layout, results: Sequence[Result]) -> str:
        """A medium may be read-only, or full: that is told, and no failure."""
        try:
            states = self._bundles.states()
            channels = self._channels.followed()
            name = write_report(layout, self._repositories, states, channels, results)
        except (LibraryError, RegistryError) as error:
            return f"no report was written onto the medium: {error}"
        return f"{name} on the medium tells what this box has; it is not signed"


@dataclass(slots=True)
class _Told:
    """What became of each wish. A medium that is gone ends all, so nothing can be said on it."""

    results: list[Result] = field(default_factory=list)
    failures: list[ApplianceError] = field(default_factory=list)

    async def of(
        self, wish: str, lines: AsyncGenerator[Progress, None]
    ) -> AsyncGenerator[Progress, None]:
        """The lines of one wish, then how it ended."""
        try:
            async with aclosing(lines):
                async for line in lines:
                    if line.status != "success":  # ours comes when all are done
                        yield line
        except RegistryUnreachableError:
            raise
        except ApplianceError as error:
            self.failures.append(error)
            self.results.append(Result(wish, error.code, str(error)))
            yield Progress(f"{wish} was not imported: {error}")
        else:
            self.results.append(Result(wish))
            yield Progress(f"{wish} is imported")


def _origin(layout: Layout, repository: str) -> Origin:
    return Origin(metadata_source(layout, repository), (FolderContent(layout),))
