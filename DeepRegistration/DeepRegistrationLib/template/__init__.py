"""An average of many images, of their shape as of their intensities, by registering them again and again.

* `affine`: the mean of affine maps, which gives the first average its shape;
* `average`: warped images averaged, the mean deformation taken out, and how good the average is;
* `build`: the iterations, resumable.

The scheme is that of Guimond, Meunier, Thirion: Average brain models: a convergence study. Computer Vision
and Image Understanding 77, 2000: average the registered images, then apply the mean deformation's inverse.
"""
