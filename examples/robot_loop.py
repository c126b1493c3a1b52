"""A control loop that steers by how much road is ahead: python robot_loop.py [SOURCE]."""

import sys

import edgeseg

source = edgeseg.open_source(sys.argv[1] if len(sys.argv) > 1 else 0)
segmenter = edgeseg.load()  # or edgeseg.load("model.onnx")
road = segmenter.card.classes.index("road")

for result in segmenter.stream(source):
    if not result.valid or result.age_ms > 250:
        print("stop: no fresh result")
        continue
    height, width = result.mask.shape
    ahead = result.mask[height // 2 :] == road
    left, right = ahead[:, : width // 2].mean(), ahead[:, width // 2 :].mean()
    print(f"frame {result.frame_index}: steer {right - left:+.2f}, road ahead {ahead.mean():.0%}")
