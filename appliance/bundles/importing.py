"""Models from a medium into the box: what enrolled repositories have signed, and nothing else.

Each release is installed as if it came over the network: fetched, proven by its smoke tests, made
active. A medium that is pulled out in the middle leaves what was active, and is gone on with the
next time. Afterwards the box writes a report onto it.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

from appliance.bundles.bundles import Bundles, Origin
from appliance.bundles.folder_content import FolderContent
from appliance.bundles.import_plan import Plan, make_plan, metadata_source, trust_medium
from appliance.bundles.layout import Layout
from appliance.bundles.medium import find_layout
from appliance.bundles.report import Result, write_report
from appliance.errors import ApplianceError, LibraryError, RegistryError, RegistryUnreachableError
from appliance.library.library import Library
from appliance.library.names import ModelName
from appliance.transfer.progress import Progress
from appliance.trust.repositories import Repositories

log = logging.getLogger("hearth.bundles")


class Importer:
    """Imports into one box."""

    def __init__(self, library: Library, repositories: Repositories, bundles: Bundles) -> None:
        self._library = library
        self._repositories = repositories
        self._bundles = bundles

    async def bring(
        self, path: Path, names: Sequence[ModelName] = (), *, retry: bool = False
    ) -> AsyncGenerator[Progress, None]:
        """Install what the medium at `path` has for this box, or the models `names` alone.

        `retry`: also releases that failed here before. Raises BadRequestError, RegistryError or
        TrustError for a medium that cannot be used; then no model was changed. A model that cannot
        be installed is told, the others are, and then the first error is raised.
        """
        layout = await asyncio.to_thread(find_layout, path)
        yield Progress(f"reading {layout.root}")
        plan = await asyncio.to_thread(self._prepare, layout, names)
        for remark in plan.remarks:
            yield Progress(remark)
        results: list[Result] = []
        failures: list[ApplianceError] = []
        for name, repository in plan.pairs():
            yield Progress(f"importing {name.short}")
            origin = await asyncio.to_thread(_origin, layout, repository)
            try:
                async with aclosing(self._bundles.install(name, origin, retry=retry)) as lines:
                    async for line in lines:
                        if line.status != "success":  # ours comes when all are done
                            yield line
            except RegistryUnreachableError:
                raise  # the medium is gone, so nothing can be said on it either
            except ApplianceError as error:
                failures.append(error)
                results.append(Result(name.short, error.code, str(error)))
                yield Progress(f"{name.short} was not imported: {error}")
            else:
                results.append(Result(name.short))
                yield Progress(f"{name.short} is imported")
        yield Progress(await asyncio.to_thread(self._report, layout, results))
        log.info("imported from=%s models=%d failed=%d", layout.root, len(results), len(failures))
        if failures:
            raise failures[0]
        yield Progress("success")

    def _prepare(self, layout: Layout, names: Sequence[ModelName]) -> Plan:
        installed = [ModelName.parse(state.name) for state in self._bundles.states()]
        blobs = self._library.blobs
        plan = make_plan(layout, self._repositories, blobs, names, installed)
        return trust_medium(plan, self._repositories, all_must_be_listed=bool(names))

    def _report(self, layout: Layout, results: Sequence[Result]) -> str:
        """A medium may be read-only, or full: that is told, and no failure."""
        try:
            states = self._bundles.states()
            name = write_report(layout, self._repositories, states, results)
        except (LibraryError, RegistryError) as error:
            return f"no report was written onto the medium: {error}"
        return f"{name} on the medium tells what this box has; it is not signed"


def _origin(layout: Layout, repository: str) -> Origin:
    return Origin(metadata_source(layout, repository), (FolderContent(layout),))
