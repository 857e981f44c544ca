"""What a request becomes before it is computed: prompt, pictures, templates."""
