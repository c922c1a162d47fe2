"""What the catalogue's entries hold: :class:`CatalogueDevice`, :class:`CatalogueLink`, :class:`CatalogueMachine`.

Rates are peaks of data sheets, dense, one way. What nobody has published is ``None``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from steelyard.hardware.device import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where an entry's figures are from.

    Attributes:
        source: of every figure that the other two do not name.
        sources: by figure, if it is another.
        estimates: by figure that nobody published: how it was reckoned.
    """

    source: str
    sources: Mapping[str, str] = field(default_factory=dict)
    estimates: Mapping[str, str] = field(default_factory=dict)

    def of(self, figure: str) -> str:
        """Return where ``figure`` is from; an estimate says so."""
        if figure in self.estimates:
            return f"estimate: {self.estimates[figure]}"
        return self.sources.get(figure, self.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What one device or machine costs to rent.

    Attributes:
        dollars_per_hour: on demand.
        source: price list or paper, with its date.
    """

    dollars_per_hour: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueDevice:
    """A processor as its data sheet has it.

    Attributes:
        title: what its maker calls it.
        device: its memory and rates; named as the entry.
        provenance: of the figures.
        peak_watts: what it may draw at most.
        idle_watts: what it draws without work.
        max_clock_hz: of its compute units.
        min_clock_hz: the lowest that it can be capped to.
        host_link: name of the link to the host.
        peer_link: name of the link to the devices beside it.
        prices: none, one or several.
    """

    title: str
    device: Device
    provenance: Provenance
    peak_watts: float | None = None
    idle_watts: float | None = None
    max_clock_hz: float | None = None
    min_clock_hz: float | None = None
    host_link: str | None = None
    peer_link: str | None = None
    prices: tuple[Price, ...] = ()

    @property
    def name(self) -> str:
        """The name to ask for it by."""
        return self.device.name

    @property
    def dollars_per_hour(self) -> float | None:
        """The first price given; ``None`` if there is none."""
        return self.prices[0].dollars_per_hour if self.prices else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueLink:
    """A connection, as seen by one of its ends.

    Attributes:
        name: the name to ask for it by.
        title: what its makers call it.
        bandwidth_bytes_per_s: one way, all lanes of one end together.
        provenance: of the figures.
        latency_s: one way, of an empty message; ``None`` if not known.
    """

    name: str
    title: str
    bandwidth_bytes_per_s: float
    provenance: Provenance
    latency_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueMachine:
    """A computer that can be bought or rented whole.

    Attributes:
        name: the name to ask for it by.
        title: what its maker calls it.
        device: name of its accelerators.
        num_devices: of them.
        provenance: of the figures.
        host: name of its processors; ``None`` if the catalogue has none like them.
        num_hosts: processors' sockets.
        host_memory_bytes: of all sockets.
        peer_link: name of the link between the devices; ``None`` for the device's own.
        network: name of the link to other machines.
        num_networks: of those links.
        peak_watts: of the whole machine.
        prices: of the whole machine.
    """

    name: str
    title: str
    device: str
    num_devices: int
    provenance: Provenance
    host: str | None = None
    num_hosts: int | None = None
    host_memory_bytes: int | None = None
    peer_link: str | None = None
    network: str | None = None
    num_networks: int | None = None
    peak_watts: float | None = None
    prices: tuple[Price, ...] = ()
