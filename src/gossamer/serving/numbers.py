"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric

from gossamer.serving.catalogue import Catalogue

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Numbers:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        about = {"registry": self.registry, "namespace": "gossamer"}
        self.requests = Counter("requests", "Predictions, by adapter and HTTP status.", ["adapter", "status"], **about)
        self.seconds = Histogram("request_seconds", "From a request to its answer.", buckets=SECONDS, **about)
        self.batches = Histogram("batch_images", "Images in a batch.", buckets=SIZES, **about)
        self.waiting = Gauge("waiting", "Requests that wait for a batch.", **about)
        self.adapters = Gauge("adapters", "Adapters that are served.", **about)
        self.weights = Gauge("weight_bytes", "Bytes of weights in memory.", **about)

    def answered(self, adapter: str, status: int, seconds: float) -> None:
        """Counts a request; `adapter` is one that is served, or empty."""
        self.requests.labels(adapter, str(status)).inc()
        self.seconds.observe(seconds)

    def now(self, waiting: int, catalogue: Catalogue) -> None:
        """Takes note of how things stand."""
        self.waiting.set(waiting)
        self.adapters.set(len(catalogue.served))
        self.weights.set(catalogue.weight_bytes)


def together(counted: Mapping[str, Iterable[Metric]]) -> list[Metric]:
    """What several servers count, by their names, as one: the label `replica` says whose a number is."""
    found: dict[str, Metric] = {}
    for replica, families in counted.items():
        for family in families:
            one = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            one.samples += [sample._replace(labels={**sample.labels, "replica": replica}) for sample in family.samples]
    return list(found.values())


class Counted(list[Metric]):
    """What is counted, as prometheus_client takes it to write it down."""

    def collect(self) -> Iterable[Metric]:
        """All of it."""
        return self
