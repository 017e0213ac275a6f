"""Errors, logging, environment report: what every room may use and that uses none of them."""
