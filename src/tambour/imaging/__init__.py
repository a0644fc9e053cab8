"""The ground floor for raster work; no models. Each tool is written once, here, and the rooms above use it.

- pictures in and out: `files` (with `svg` and `limits`), `tensors`, `geometry`, `designs`; `sheet`, `charts`
- colour: `colour`, `palette`, `segmentation` (a photo's flat areas)
- label maps: `regions` (of a design), `components`, `nearest`, `outlines`
- surfaces: `contrast`, `orientation`, `texture`, `scores`
- what ControlNets are fed with: `conditions`
"""
