"""The ground floor for raster work: pictures in and out, geometry, colour, regions, contrast, texture; no models."""
