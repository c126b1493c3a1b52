"""Paints one moment of the procedural street, from the sky forward to the nearest thing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Callable

import numpy as np
from numpy.typing import NDArray

from edgeseg.io import _street_furniture as furniture
from edgeseg.io import _street_vehicles as vehicles
from edgeseg.io import _street_world as world
from edgeseg.io._street_canvas import Camera, Canvas
from edgeseg.io._street_facades import House, fences, guard_rail, hedge, houses
from edgeseg.io._street_figures import PEDAL_M, STRIDE_M, bushes, cyclists, mirrored, trees, walkers
from edgeseg.io._street_labels import BUILDING, PAVEMENT, ROAD, TREE, Paint, paint
from edgeseg.io._street_textures import (
    GRAIN_HALF_WIDTH_M,
    GRAIN_LENGTH_M,
    GRAIN_MEAN,
    GRAIN_PERIOD_M,
    ground_grain,
    sky_panorama,
)
from edgeseg.io._street_world import FRONT_M, KERB_HEIGHT_M, KERB_M, ROAD_EDGE_M, Plot, PlotKind, Traveller

Job = tuple[float, Callable[[], None]]
"""A thing to paint and its nearest distance along the road."""

_HORIZON = 0.57  # of the picture's height
_SKY_MARGIN = 0.22  # tangent of the farthest the camera turns
_GROUND_FAR_M = 1200.0

# The ground is painted darker than it is: its grain is added afterwards.
_GRASS = paint((30, 62, 56), TREE)
_ASPHALT = paint((64, 62, 60), ROAD)
_SIDE_ASPHALT = paint((60, 58, 57), ROAD)
_SLABS = paint((84, 88, 90), PAVEMENT)
_KERB_TOP = paint((104, 108, 108), PAVEMENT)
_KERB_FACE = paint((48, 50, 50), PAVEMENT)
_WHITE = paint((158, 162, 160), ROAD)
_YELLOW = paint((40, 120, 138), ROAD)

_SLATES = (paint((62, 58, 58), BUILDING), paint((54, 60, 78), BUILDING), paint((48, 46, 48), BUILDING))


class Scene:
    """The street of one seed at one picture size.

    Args:
        size_hw: picture height and width in pixels.
        seed: which street.
    """

    def __init__(self, size_hw: tuple[int, int], seed: int) -> None:
        height, width = size_hw
        self._size_hw = size_hw
        self._focal_px = max(1.2 * height, 0.65 * width)
        self._world = world.World(seed)
        self._canvas = Canvas(size_hw)
        rng = np.random.default_rng(seed)
        above = math.ceil(height * _HORIZON + 0.03 * self._focal_px) + 2
        self._sky = sky_panorama(rng, (above, width + 2 * math.ceil(_SKY_MARGIN * self._focal_px)), self._focal_px)
        self._grain = ground_grain(rng)
        self._houses = houses(rng)
        self._fences, self._guard_rail, self._hedge = fences(rng), guard_rail(rng), hedge(rng)
        self._trees, self._bushes = trees(rng), bushes(rng)
        self._walkers, self._cyclists = walkers(rng), cyclists(rng)
        self._walkers_left = tuple(mirrored(gait) for gait in self._walkers)

    def paint(self, time_s: float) -> NDArray[np.uint8]:
        """One moment: uint8 [H, W, 4], blue, green, red, class id. Overwritten by the next call."""
        pose = self._world.pose(time_s)
        bend = self._world.bend
        camera = Camera(
            size_hw=self._size_hw,
            focal_px=self._focal_px,
            horizon_px=self._size_hw[0] * _HORIZON + pose.pitch_rad * self._focal_px,
            along_m=pose.along_m,
            x_m=pose.lateral_m + bend.offset_m(pose.along_m),
            height_m=pose.height_m,
            yaw_rad=pose.yaw_rad + math.atan(bend.slope(pose.along_m + 6.0)),
            bend=bend,
        )
        traffic = list(self._vehicles(time_s, camera))
        self._paint_sky(camera)
        self._paint_ground(camera, traffic)
        for plot in self._world.plots(camera.along_m):
            self._paint_plot(camera, plot)
        jobs: list[Job] = []
        for vehicle, outline in zip(traffic, vehicles.outlines(camera, traffic)):
            jobs.append((vehicle.along_m, partial(vehicles.draw, self._canvas, camera, vehicle, outline)))
        jobs += self._people(time_s, camera)
        jobs += self._kerbside(camera)
        for _, job in sorted(jobs, key=lambda job: -job[0]):
            job()
        return self._canvas.pixels

    # Sky and ground

    def _paint_sky(self, camera: Camera) -> None:
        height, width = self._size_hw
        rows, columns = self._sky.shape[:2]
        horizon = min(max(round(camera.horizon_px) + 1, 0), height, rows)
        turned = min(max(math.tan(camera.yaw_rad), -_SKY_MARGIN), _SKY_MARGIN)
        left = round((columns - width) / 2 + turned * self._focal_px)
        self._canvas.pixels[:horizon] = self._sky[rows - horizon :, left : left + width]
        self._canvas.box(0, horizon, width, height, _GRASS)

    def _paint_ground(self, camera: Camera, traffic: list[vehicles.Vehicle]) -> None:
        along = camera.along_m + np.geomspace(2.0, _GROUND_FAR_M, 40)

        def strip(left_m: float, right_m: float, colour: Paint, left_up: float = 0.0, right_up: float = 0.0) -> None:
            edges = np.empty((2, along.size, 3))
            edges[..., 2] = along, along[::-1]
            edges[0, :, :2], edges[1, :, :2] = (left_m, left_up), (right_m, right_up)
            self._canvas.polygon(camera.project(edges).reshape(-1, 2), colour)

        strip(-FRONT_M - 1.0, FRONT_M + 1.0, _SLABS, KERB_HEIGHT_M, KERB_HEIGHT_M)
        for side in (-1, 1):
            strip(side * (KERB_M + 0.1), side * KERB_M, _KERB_TOP, KERB_HEIGHT_M, KERB_HEIGHT_M)
            strip(side * KERB_M, side * (ROAD_EDGE_M + 0.05), _KERB_FACE, KERB_HEIGHT_M, 0.0)
        strip(-ROAD_EDGE_M - 0.05, ROAD_EDGE_M + 0.05, _ASPHALT)
        for plot in self._world.plots(camera.along_m):
            if plot.kind is PlotKind.SIDE_ROAD:
                self._paint_side_road(camera, plot)
        self._paint_markings(camera)
        shadows = [vehicle.shadow_m() for vehicle in traffic if vehicle.far_m > camera.along_m + 2.0]
        for shadow in camera.project(np.array(shadows)) if shadows else ():
            self._canvas.polygon(shadow, vehicles.SHADOW_PAINT)
        self._add_grain(camera)

    def _paint_side_road(self, camera: Camera, plot: Plot) -> None:
        near = max(plot.start_m + 1.0, camera.along_m + 4.0)
        far = plot.end_m - 1.0
        if far <= near:
            return
        inner, outer = plot.side * ROAD_EDGE_M, plot.side * 19.0
        quad = np.array([[inner, 0, near], [outer, 0, near], [outer, 0, far], [inner, 0, far]])
        self._canvas.polygon(camera.project(quad), _SIDE_ASPHALT)
        line = [_quad(plot.side * 5.6, plot.side * 5.9, z, z + 0.6) for z in np.arange(near, far - 0.6, 1.1)]
        if line:
            self._canvas.polygons(camera.project(np.array(line)), _WHITE)

    def _paint_markings(self, camera: Camera) -> None:
        start = camera.along_m
        first = math.floor((start + 2.0) / 6.0)
        white = [_quad(-0.06, 0.06, 6.0 * number, 6.0 * number + 2.4) for number in range(first, first + 22)]
        for crossing in self._world.crossings(start, start + 130.0):
            low, high = crossing.along_m - 1.4, crossing.along_m + 1.4
            white = [quad for quad in white if quad[2][2] < low - 1.0 or quad[0][2] > high + 1.0]
            white += [_quad(x, x + 0.55, low, high) for x in np.arange(-5.2, 5.0, 1.15)]
            white += [_quad(-5.4, -0.2, low - 1.4, low - 1.1), _quad(0.2, 5.4, high + 1.1, high + 1.4)]
        white = [quad for quad in white if quad[2][2] > start + 2.0]
        yellow = []
        for plot in self._world.plots(start):
            if plot.kind is not PlotKind.SIDE_ROAD and plot.start_m < start + 110.0:
                for inner_m in (5.32, 5.50):
                    left_m, right_m = sorted((plot.side * inner_m, plot.side * (inner_m + 0.08)))
                    yellow.append(_quad(left_m, right_m, plot.start_m, plot.end_m))
        for quads, colour in ((yellow, _YELLOW), (white, _WHITE)):
            if quads:
                self._canvas.polygons(camera.project(np.array(quads)), colour)

    def _add_grain(self, camera: Camera) -> None:
        """Lighten what is painted so far by a texture that lies on the ground."""
        import cv2

        top = math.floor(camera.horizon_px) + 1
        if top >= self._size_hw[0]:
            return
        ground = self._canvas.pixels[max(top, 0) :]
        rows, columns = self._grain.shape[:2]
        per_column, per_row = 2 * GRAIN_HALF_WIDTH_M / columns, GRAIN_LENGTH_M / rows
        past = camera.along_m % GRAIN_PERIOD_M
        slope = camera.bend.slope(camera.along_m)
        centre = camera.bend.offset_m(camera.along_m) - camera.x_m
        axes = np.array(
            [
                [per_column, slope * per_row, centre - GRAIN_HALF_WIDTH_M - slope * past],
                [0.0, 0.0, -camera.height_m],
                [0.0, per_row, -past],
            ]
        )
        homography = camera.plane(axes)
        homography[:2] -= np.outer((0.0, max(top, 0)), homography[2])
        grain = cv2.warpPerspective(
            self._grain,
            homography,
            ground.shape[1::-1],
            flags=cv2.INTER_LINEAR,
            borderValue=(GRAIN_MEAN, GRAIN_MEAN, GRAIN_MEAN, 0),
        )
        cv2.add(ground, grain, dst=ground)

    # Beside the road

    def _paint_plot(self, camera: Camera, plot: Plot) -> None:
        if plot.end_m < camera.along_m + 2.0:
            return
        if plot.kind is PlotKind.FRONT:
            self._paint_house(camera, plot, FRONT_M)
        elif plot.kind is PlotKind.GARDEN:
            self._paint_house(camera, plot, FRONT_M + 5.0)
            self._paint_garden(camera, plot)
        elif plot.kind is PlotKind.PARK:
            for depth, part in ((17.0, 0.75), (13.0, 0.3)):
                luck = plot.luck[2] if depth > 15 else plot.luck[3]
                self._tree(camera, plot.side * depth, plot.start_m + part * world.PLOT_M, luck, 1.0 + 0.5 * luck)
            self._paint_garden(camera, plot)

    def _paint_house(self, camera: Camera, plot: Plot, front_m: float) -> None:
        house = self._house(plot)
        near, far, x, height = plot.start_m, plot.end_m, plot.side * front_m, house.front.height_m
        back, ridge, ridge_up = x + plot.side * 9.0, x + plot.side * 4.5, height + 3.0
        is_pitched = plot.luck[3] < 0.75 and height < 10.0
        if is_pitched:
            furniture.chimney(self._canvas, camera, ridge, near + 1.0 + 6.0 * plot.luck[5], ridge_up)
            slope = (ridge_up - height) / 4.5
            if height - slope * abs(camera.x_m - x - camera.bend.offset_m(near)) < camera.height_m + 0.5:
                roof = (x, height, near), (x, height, far), (ridge, ridge_up, far), (ridge, ridge_up, near)
                self._canvas.polygon(camera.project(np.array(roof)), _SLATES[int(plot.luck[4] * len(_SLATES))])
        if near > camera.along_m + 3.0 and self._is_side_seen(plot, height):
            if is_pitched:
                gable = (x, height, near), (ridge, ridge_up, near), (back, height, near)
                self._canvas.polygon(camera.project(np.array(gable)), house.side.mean)
            self._canvas.wall(camera, house.side, (x, near), (back, near))
        self._canvas.wall(camera, house.front, (x, near), (x, far))
        if plot.kind is PlotKind.FRONT and plot.luck[7] < 0.35 and near > camera.along_m + 2.0:
            furniture.shop_sign(self._canvas, camera, x, near + 3.0, plot.luck[4])

    def _house(self, plot: Plot) -> House:
        return self._houses[int(plot.luck[2] * len(self._houses))]

    def _is_side_seen(self, plot: Plot, height_m: float) -> bool:
        """Whether the house next door, on this side of it, leaves the side wall in view."""
        nearer = self._world.plot_at(plot.side, plot.start_m - 1.0)
        if nearer.kind is not PlotKind.FRONT or plot.kind is not PlotKind.FRONT:
            return True
        return self._house(nearer).front.height_m < height_m - 0.1

    def _paint_garden(self, camera: Camera, plot: Plot) -> None:
        x = plot.side * FRONT_M
        for place in range(2):
            luck = plot.luck[5 + place]
            if luck < 0.7:
                along = plot.start_m + (7.0 - 4.5 * place)
                column, ground, scale = camera.locate(x + plot.side * (1.2 + luck), along)
                bush = self._bushes[int(luck * 37) % len(self._bushes)]
                if along > camera.along_m + 2.0:
                    self._canvas.sprite(bush, column, ground, scale * (0.8 + luck))
        if plot.luck[4] < 0.6:
            self._tree(camera, x + plot.side * 2.4, plot.start_m + 4.0, plot.luck[4], 0.7 + plot.luck[4])
        if plot.luck[7] < 0.3:
            self._canvas.wall(camera, self._hedge, (x, plot.start_m), (x, plot.end_m))
        else:
            fence = self._fences[int(plot.luck[7] * 50) % len(self._fences)]
            self._canvas.wall(camera, fence, (x, plot.start_m), (x, plot.end_m))

    def _tree(self, camera: Camera, lateral_m: float, along_m: float, luck: float, size: float) -> None:
        if along_m < camera.along_m + 2.0:
            return
        column, ground, scale = camera.locate(lateral_m, along_m)
        self._canvas.sprite(self._trees[int(luck * 89) % len(self._trees)], column, ground, scale * size)

    # On the road and the pavements

    def _vehicles(self, time_s: float, camera: Camera) -> Iterator[vehicles.Vehicle]:
        start = camera.along_m
        for car in self._world.parked(start - 6.0, start + 130.0):
            shape, body = vehicles.pick(car.luck, buses=0.0)
            yield vehicles.Vehicle(shape, body, car.lateral_m, car.along_m, car.lateral_m > 0 and car.luck[5] < 0.7)
        for car in self._world.leaders(time_s, start):
            shape, body = vehicles.pick(car.luck, buses=0.07)
            yield vehicles.Vehicle(shape, body, car.lateral_m, car.along_m, False, car.speed_mps < 5.5)
        for car in self._world.travellers(world.TRAFFIC, time_s, start):
            shape, body = vehicles.pick(car.luck, buses=0.08)
            yield vehicles.Vehicle(shape, body, car.lateral_m, car.along_m, True)

    def _people(self, time_s: float, camera: Camera) -> Iterator[Job]:
        start = camera.along_m
        for person in self._world.travellers(world.WALKERS, time_s, start):
            yield person.along_m, partial(self._walker, camera, person, False)
        for crossing in self._world.crossings(start, start + 90.0):
            for person in self._world.walking_across(crossing, start):
                yield person.along_m, partial(self._walker, camera, person, True)
        for rider in self._world.travellers(world.CYCLISTS, time_s, start):
            yield rider.along_m, partial(self._cyclist, camera, rider)

    def _walker(self, camera: Camera, person: Traveller, across: bool) -> None:
        if person.along_m < camera.along_m + 1.5:
            return
        column, ground, scale = camera.locate(person.lateral_m, person.along_m)
        if abs(person.lateral_m) > KERB_M:
            ground -= KERB_HEIGHT_M * scale
        gaits = self._walkers_left if across and person.speed_mps < 0 else self._walkers
        gait = gaits[int(person.luck[5] * len(gaits))]
        picture = gait.picture(person.step_m, STRIDE_M, across)
        self._canvas.sprite(picture, column, ground, scale * (0.9 + 0.14 * person.luck[6]))

    def _cyclist(self, camera: Camera, rider: Traveller) -> None:
        if rider.along_m < camera.along_m + 1.2:
            return
        column, ground, scale = camera.locate(rider.lateral_m, rider.along_m)
        gait = self._cyclists[int(rider.luck[5] * len(self._cyclists))]
        self._canvas.sprite(gait.picture(rider.step_m, PEDAL_M), column, ground, scale)

    # At the kerb

    def _kerbside(self, camera: Camera) -> Iterator[Job]:
        start = camera.along_m
        for plot in self._world.plots(start):
            if plot.kind is PlotKind.SIDE_ROAD or plot.start_m > start + 150.0:
                continue
            luck = self._world.kerb_luck(plot)
            x = plot.side * (KERB_M + 0.45)
            number = round(plot.start_m / world.PLOT_M)
            if (number + (plot.side > 0)) % 3 == 0:
                along = plot.start_m + 1.0
                yield from _at(along, start, partial(furniture.lamp, self._canvas, camera, x, along))
            if luck[0] < 0.4:
                along = plot.start_m + 4.0
                yield from _at(along, start, partial(furniture.sign, self._canvas, camera, x, along, luck[4]))
            if luck[1] < 0.26:
                along = plot.start_m + 7.0
                yield from _at(along, start, partial(self._tree, camera, x + plot.side * 0.3, along, luck[2], 0.9))
            if luck[3] < 0.15:
                for place in range(4):
                    along = plot.start_m + 1.5 + 1.8 * place
                    yield from _at(along, start, partial(furniture.bollard, self._canvas, camera, x, along))
        for crossing in self._world.crossings(start - 12.0, start + 140.0):
            yield from self._crossing_furniture(camera, crossing)

    def _crossing_furniture(self, camera: Camera, crossing: world.Crossing) -> Iterator[Job]:
        start = camera.along_m
        for side in (-1, 1):
            x = side * (KERB_M + 0.3)
            post = crossing.along_m - side * 2.0
            yield from _at(post, start, partial(furniture.traffic_light, self._canvas, camera, x, post))
            for along in (-9.0, -6.0, 3.0, 6.0):
                near = crossing.along_m + along
                plots = self._world.plot_at(side, near), self._world.plot_at(side, near + 3.0)
                if all(plot.kind is not PlotKind.SIDE_ROAD for plot in plots) and near + 3.0 > start + 2.0:
                    wall = partial(self._canvas.wall, camera, self._guard_rail, (x, near), (x, near + 3.0))
                    yield near, wall


def _quad(left_m: float, right_m: float, near_m: float, far_m: float) -> list[list[float]]:
    """Corners (lateral, height, along) of a rectangle on the ground."""
    return [[left_m, 0.0, near_m], [right_m, 0.0, near_m], [right_m, 0.0, far_m], [left_m, 0.0, far_m]]


def _at(along_m: float, camera_m: float, job: Callable[[], None]) -> Iterator[Job]:
    """The job, if its place is still before the camera."""
    if along_m > camera_m + 2.0:
        yield along_m, job
