"""TensorRT from 8.5 to 11: engines built, described and checked. Imports neither it nor any other engine.

One code path serves every version, by asking TensorRT whether it has a feature. Nothing here needs torch or onnx, so
all of it runs on a Jetson.
"""
