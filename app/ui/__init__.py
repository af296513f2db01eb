"""The browser app. Only the modules that draw the page import gradio."""
