"""What stands and moves where in the procedural street. No pixels here.

Nothing is remembered between two moments: every place and every road user is a function of the
seed, its number and the time, so any moment can be asked for first.
"""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgeseg.io._street_canvas import Bend

LANE_M = 1.85  # centre of a lane, from the centre line
CYCLE_M = 3.25
PARKING_M = 4.75
ROAD_EDGE_M = 5.7
KERB_M = 5.9
FRONT_M = 8.9  # where pavements end and plots begin
KERB_HEIGHT_M = 0.11

PLOT_M = 9.0
DISTRICT_PLOTS = 12
SIGHT_M = 230.0  # plots end here, hidden by nearer ones
PARKING_PITCH_M = 5.8
CROSSING_PITCH_M = 85.0

_SPEED_MPS = 8.3


class Topic(enum.IntEnum):
    """What a roll of the dice decides, so that two decisions at one place are independent."""

    ROAD = 1
    DISTRICT = 2
    PLOT = 3
    KERB = 4
    PARKING = 5
    PARKING_SECTION = 6
    CROSSING = 7
    LEAD = 8
    STREAM = 9  # and one more for each stream: keep last


class Dice:
    """Random numbers that depend only on the seed, a topic and a place."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.roll = functools.lru_cache(maxsize=8192)(self._roll)

    def _roll(self, topic: int, place: int) -> tuple[float, ...]:
        """Eight numbers in [0, 1)."""
        generator = np.random.default_rng((self._seed, topic, place & 0xFFFF_FFFF_FFFF))
        return tuple(generator.random(8).tolist())


class PlotKind(enum.Enum):
    """What is built beside the pavement."""

    FRONT = enum.auto()  # a building at the pavement
    GARDEN = enum.auto()  # a house behind a front garden
    PARK = enum.auto()
    SIDE_ROAD = enum.auto()


@dataclass(frozen=True)
class Plot:
    """One stretch of ``PLOT_M`` on one side.

    Attributes:
        side: -1 left, 1 right.
        start_m, end_m: along the road.
        kind: what is on it.
        luck: random numbers in [0, 1) for its details.
    """

    side: int
    start_m: float
    end_m: float
    kind: PlotKind
    luck: tuple[float, ...]


@dataclass(frozen=True)
class Crossing:
    """A zebra crossing, and how soon before the camera arrives its pedestrians walk."""

    along_m: float
    luck: tuple[float, ...]


@dataclass(frozen=True)
class Stream:
    """Road users in one lane at one speed, so that they never meet each other.

    Attributes:
        number: which stream, for the dice.
        lateral_m: the middle of their lane.
        spread_m: how far they stray from it.
        speed_mps: along the road; negative towards the camera.
        pitch_m: mean distance between two.
        share: part of the places that are taken, 0..1.
        reach_m: farthest distance from the camera at which they are drawn.
    """

    number: int
    lateral_m: float
    spread_m: float
    speed_mps: float
    pitch_m: float
    share: float
    reach_m: float


TRAFFIC = (Stream(0, LANE_M, 0.15, -9.0, 27.0, 0.5, 190.0),)
CYCLISTS = (
    Stream(1, -CYCLE_M, 0.15, 4.3, 19.0, 0.7, 90.0),
    Stream(2, CYCLE_M, 0.15, -4.8, 31.0, 0.7, 90.0),
)
WALKERS = (
    Stream(3, -7.4, 0.8, 1.3, 9.0, 0.5, 90.0),
    Stream(4, -7.2, 0.9, -1.2, 11.0, 0.5, 90.0),
    Stream(5, 7.4, 0.8, 1.2, 10.0, 0.5, 90.0),
    Stream(6, 7.2, 0.9, -1.35, 9.0, 0.5, 90.0),
)


@dataclass(frozen=True)
class Traveller:
    """One road user of a stream at one moment. ``step`` is the distance it has gone, for its gait."""

    lateral_m: float
    along_m: float
    speed_mps: float
    step_m: float
    luck: tuple[float, ...]


@dataclass(frozen=True)
class Pose:
    """The camera at one moment; angles in radians, ``yaw`` against the road's direction."""

    along_m: float
    lateral_m: float
    height_m: float
    yaw_rad: float
    pitch_rad: float


class World:
    """The street of one seed."""

    def __init__(self, seed: int) -> None:
        self._dice = Dice(seed)
        luck = self._dice.roll(Topic.ROAD, 0)
        self.bend = Bend(luck)
        self._start_m = 1000.0 * luck[2]
        self.plot = functools.lru_cache(maxsize=512)(self._plot)

    def pose(self, time_s: float) -> Pose:
        """Where the camera is."""
        along = self._start_m + _SPEED_MPS * time_s + 5.0 * math.sin(0.27 * time_s)
        bump = math.sin(along * 1.9) * math.sin(along * 0.37)
        return Pose(
            along_m=along,
            lateral_m=-LANE_M + 0.16 * math.sin(0.41 * time_s) + 0.05 * math.sin(1.3 * time_s),
            height_m=1.42 + 0.012 * bump,
            yaw_rad=0.010 * math.sin(0.33 * time_s + 1.0) + 0.004 * math.sin(1.1 * time_s),
            pitch_rad=0.0035 * bump + 0.004 * math.sin(0.7 * time_s),
        )

    def _plot(self, side: int, number: int) -> Plot:
        place = 2 * number + (side > 0)
        luck = self._dice.roll(Topic.PLOT, place)
        district, number_in_district = divmod(number, DISTRICT_PLOTS)
        town, road_left, road_right, *_ = self._dice.roll(Topic.DISTRICT, district)
        side_road = int((road_left if side < 0 else road_right) * DISTRICT_PLOTS)
        if number_in_district == side_road:
            kind = PlotKind.SIDE_ROAD
        elif luck[0] < 0.42 + 0.5 * town:
            kind = PlotKind.FRONT
        elif luck[1] < 0.55:
            kind = PlotKind.GARDEN
        else:
            kind = PlotKind.PARK
        return Plot(side, number * PLOT_M, (number + 1) * PLOT_M, kind, luck)

    def plots(self, along_m: float) -> Iterator[Plot]:
        """What is in sight from ``along_m``, the farthest first."""
        first = math.floor(along_m / PLOT_M)
        for number in range(first + math.ceil(SIGHT_M / PLOT_M), first - 1, -1):
            yield self.plot(-1, number)
            yield self.plot(1, number)

    def plot_at(self, side: int, along_m: float) -> Plot:
        """The plot beside a place."""
        return self.plot(side, math.floor(along_m / PLOT_M))

    def kerb_luck(self, plot: Plot) -> tuple[float, ...]:
        """Random numbers for what stands at the kerb before a plot."""
        return self._dice.roll(Topic.KERB, 2 * round(plot.start_m / PLOT_M) + (plot.side > 0))

    def crossings(self, from_m: float, to_m: float) -> list[Crossing]:
        """The zebra crossings between two distances."""
        found = []
        for number in range(math.floor(from_m / CROSSING_PITCH_M), math.floor(to_m / CROSSING_PITCH_M) + 1):
            luck = self._dice.roll(Topic.CROSSING, number)
            found.append(Crossing((number + 0.2 + 0.6 * luck[0]) * CROSSING_PITCH_M, luck))
        return found

    def is_clear_of_crossings(self, along_m: float, gap_m: float) -> bool:
        """Whether no zebra crossing is nearer than ``gap_m``."""
        near = self.crossings(along_m - gap_m, along_m + gap_m)
        return all(abs(crossing.along_m - along_m) > gap_m for crossing in near)

    @staticmethod
    def walking_across(crossing: Crossing, camera_m: float) -> Iterator[Traveller]:
        """The pedestrians on a crossing: they are over before the camera arrives."""
        for index in range(1 + int(crossing.luck[1] * 3)):
            luck = crossing.luck[index + 2 :] + crossing.luck[: index + 2]
            done = (78.0 - 9.0 * index - (crossing.along_m - camera_m)) / 50.0
            done = min(max(done, 0.0), 1.0)  # before and after, they stand on the pavement
            direction = 1 if luck[2] > 0.5 else -1
            lateral = direction * (2 * done - 1) * (KERB_M + 0.6)
            yield Traveller(lateral, crossing.along_m + 2 * luck[3] - 1, direction, done * 13.1, luck)

    def parked(self, from_m: float, to_m: float) -> Iterator[Traveller]:
        """Cars at the kerb."""
        for side in (-1, 1):
            for number in range(math.floor(from_m / PARKING_PITCH_M), math.ceil(to_m / PARKING_PITCH_M)):
                place = 2 * number + (side > 0)
                share = self._dice.roll(Topic.PARKING_SECTION, 2 * (number // 9) + (side > 0))[0]
                luck = self._dice.roll(Topic.PARKING, place)
                along = (number + 0.1 + 0.15 * luck[1]) * PARKING_PITCH_M
                plots = self.plot_at(side, along), self.plot_at(side, along + PARKING_PITCH_M)
                if luck[0] > max(0.0, 1.5 * share - 0.5):
                    continue
                if any(plot.kind is PlotKind.SIDE_ROAD for plot in plots):
                    continue
                if self.is_clear_of_crossings(along + 2.0, 14.0):
                    yield Traveller(side * (PARKING_M + 0.1 * (luck[2] - 0.5)), along, 0.0, 0.0, luck)

    def leaders(self, time_s: float, camera_m: float) -> Iterator[Traveller]:
        """The cars before the camera: they drop back until near, pull away, and others follow."""
        period_s, nearest_m, swing_m = 64.0, 9.0, 105.0
        turn, phase = divmod(time_s / period_s + 0.3, 1.0)
        luck = self._dice.roll(Topic.LEAD, int(turn))
        gap = nearest_m + 5.0 * luck[0] + swing_m * 0.5 * (1 + math.cos(2 * math.pi * phase))
        speed = _SPEED_MPS - math.sin(2 * math.pi * phase) * 5.0
        for index in range(1 + int(luck[1] * 3)):
            yield Traveller(-LANE_M + 0.2 * (luck[2] - 0.5), camera_m + gap, speed, 0.0, luck[index:] + luck[:index])
            gap += 11.0 + 8.0 * luck[index + 3]

    def travellers(self, streams: tuple[Stream, ...], time_s: float, camera_m: float) -> Iterator[Traveller]:
        """The road users of some streams in sight."""
        for stream in streams:
            topic = Topic.STREAM + stream.number
            gone = stream.speed_mps * time_s
            first = math.floor((camera_m - 11.0 - gone) / stream.pitch_m)
            last = math.ceil((camera_m + stream.reach_m - gone) / stream.pitch_m)
            for number in range(first, last):
                luck = self._dice.roll(topic, number)
                if luck[0] < stream.share:
                    along = (number + 0.5 * luck[1]) * stream.pitch_m + gone
                    lateral = stream.lateral_m + stream.spread_m * (2 * luck[2] - 1)
                    step = abs(gone) + 3.0 * luck[3]
                    yield Traveller(lateral, along, stream.speed_mps, step, luck)
