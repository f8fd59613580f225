"""The first stage of the paper in plain torch: measurement, domain weights, objective, transfer."""
