"""Kernels: one folder an operation, its plain reference beside the fast forms. Depends on torch
only.
"""
