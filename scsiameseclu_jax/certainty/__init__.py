"""How sure a result is: calibration, stability, novelty."""
